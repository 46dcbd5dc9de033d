package main

// A disk in memory, mounted by FUSE, of the worst legal kind. For every file it keeps apart what was written and what
// was synced, and for every folder which names there are and which of them were made durable by a sync of the folder:
//
//	write, truncate       file.text, and file.ops
//	fsync                 file.ops into file.kept; where it fails they are dropped: what the page cache shows never
//	                      reaches the disk, and the next fsync says that all is well
//	create, rename, ...   folder.names, and folder.steps
//	fsync of the folder   folder.steps into folder.firm
//
// A power cut leaves what is kept and firm, and of the rest what the dice say: nothing, all, single sectors of the
// writes in any order, and so many of the folder's steps, in their order, as a journal has it.
//
// Every read and write of the daemon arrives here as it is (FOPEN_DIRECT_IO), but for the -shm file, which is mapped.
// Locks are the kernel's. disk.mu guards everything; what is frozen waits without it.

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const sector = 512

// change is a write or, with nil text, a truncation.
type change struct {
	at   int
	text []byte
}

func (c change) apply(to []byte) []byte {
	if c.text == nil {
		to = slices.Grow(to, max(0, c.at-len(to)))
		fresh := to[min(len(to), c.at):c.at]
		clear(fresh)
		return to[:c.at]
	}
	if end := c.at + len(c.text); end > len(to) {
		to = change{at: end}.apply(to)
	}
	copy(to[c.at:], c.text)
	return to
}

// step is a name that a folder gets, or loses.
type step struct {
	name string
	file *file // nil: it loses the name
	from string
}

func (s step) apply(names map[string]*file) {
	if s.from != "" {
		delete(names, s.from)
	}
	names[s.name] = s.file
	if s.file == nil {
		delete(names, s.name)
	}
}

// file is a file, a folder or a socket.
type file struct {
	id    uint64
	name  string // that it had last
	mode  uint32
	time  time.Time
	text  []byte
	kept  []byte
	ops   []change
	names map[string]*file // of a folder; nil: it is none
	firm  map[string]*file
	steps []step
}

// fault is what goes wrong: the operations of a kind on a name, from the first-th on, as many as times says.
type fault struct {
	kind, name   string // kind: read, write, short (a write that is cut short), fsync, create, rename
	first, times int
}

func (f fault) String() string {
	return fmt.Sprintf("%s of %s, %d. to %d.", f.kind, f.name, f.first, f.first+f.times-1)
}

type disk struct {
	fuse.RawFileSystem
	dir    string
	server *fuse.Server

	mu     sync.Mutex
	files  map[uint64]*file // by id; those that are removed stay
	last   uint64
	fault  fault
	counts map[string]int // of operations, by kind and name
	met    int            // operations that the fault has hit
	left   int            // changes until the power is cut; 0: it is not
	frozen chan struct{}  // not nil: nothing is carried out until it is closed
	cut    chan struct{}  // closed when left has come to 0
}

// newDisk mounts an empty disk, or skips the test and says why.
func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dir:           shortDir(t),
		files:         map[uint64]*file{},
		counts:        map[string]int{},
	}
	d.newFile("", syscall.S_IFDIR|0o700)
	server, err := fuse.NewServer(d, d.dir, &fuse.MountOptions{
		Name:                     "torture",
		DirectMountStrict:        true,
		DisableXAttrs:            true,
		DisableReadDirPlus:       true,
		ExplicitDataCacheControl: true,
		Options:                  []string{"default_permissions"},
	})
	if err != nil {
		t.Skipf("SKIPPED, nothing was tested: no FUSE here (it takes root and /dev/fuse): %v", err)
	}
	d.server = server
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.thaw()
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

// arm sets what goes wrong from now on, and counts anew.
func (d *disk) arm(f fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.counts, d.met = f, map[string]int{}, 0
}

// armed returns the counts since arm, and how often the fault has struck.
func (d *disk) armed() (counts map[string]int, met int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts), d.met
}

// cutAfter freezes the disk at the n-th change from now on, which is not carried out; the channel is closed then.
func (d *disk) cutAfter(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.cut = n, make(chan struct{})
	return d.cut
}

// freeze is the power cut: from now on nothing is carried out, and no operation ends.
func (d *disk) freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freezeLocked()
}

func (d *disk) freezeLocked() {
	if d.frozen == nil {
		d.frozen = make(chan struct{})
	}
}

// thaw lets the operations that wait fail. The processes that wait for them must have been killed before.
func (d *disk) thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = 0
	if d.frozen != nil {
		close(d.frozen)
		d.frozen = nil
	}
}

// enter begins an operation: it waits while the disk is frozen, and says whether it fails. Leave it with d.mu.Unlock.
func (d *disk) enter(kind string, f *file) fuse.Status {
	d.mu.Lock()
	if kind != "" && kind != "read" && d.left > 0 {
		if d.left--; d.left == 0 {
			d.freezeLocked()
			close(d.cut)
		}
	}
	if gate := d.frozen; gate != nil {
		d.mu.Unlock()
		<-gate
		d.mu.Lock()
		return fuse.ENODEV
	}
	if kind == "" {
		return fuse.OK
	}
	d.counts[kind+" "+f.name]++
	if d.strikes(kind, f) {
		return fuse.EIO
	}
	return fuse.OK
}

func (d *disk) strikes(kind string, f *file) bool {
	n := d.counts[kind+" "+f.name]
	hit := d.fault.kind == kind && d.fault.name == f.name && n >= d.fault.first && n < d.fault.first+d.fault.times
	if hit {
		d.met++
	}
	return hit
}

func (d *disk) newFile(name string, mode uint32) *file {
	d.last++
	f := &file{id: d.last, name: name, mode: mode, time: time.Now()}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		f.names, f.firm = map[string]*file{}, map[string]*file{}
	}
	d.files[f.id] = f
	return f
}

func (f *file) change(c change) {
	f.text = c.apply(f.text)
	f.ops = append(f.ops, change{c.at, bytes.Clone(c.text)})
	if !strings.HasSuffix(f.name, "-shm") { // or the kernel would drop the pages that are mapped
		f.time = time.Now()
	}
}

func (f *file) take(s step) {
	s.apply(f.names)
	f.steps = append(f.steps, s)
	f.time = time.Now()
	if s.file != nil {
		s.file.name = s.name
	}
}

// sync makes all durable that is in f.
func (f *file) sync() {
	for _, c := range f.ops {
		f.kept = c.apply(f.kept)
	}
	for _, s := range f.steps {
		s.apply(f.firm)
	}
	f.ops, f.steps = nil, nil
}

// settle makes everything durable, as sync(2) does.
func (d *disk) settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		f.sync()
	}
}

// powerCut makes the disk what it is after a power cut: dice says what survives of what was not synced, nil: nothing.
// The inodes are new ones, so that the kernel remembers nothing either.
func (d *disk) powerCut(dice *rand.Rand) {
	d.thaw()
	d.mu.Lock()
	defer d.mu.Unlock()
	mode := 0
	if dice != nil {
		mode = dice.IntN(4)
	}
	old, copies := d.files[1], map[*file]*file{}
	d.files, d.fault, d.left = map[uint64]*file{}, fault{}, 0
	root := old.survivor(mode, dice, copies, d)
	delete(d.files, root.id)
	root.id = 1
	d.files[1] = root
}

// survivor is what is left of f. mode 0: what was synced, 1: everything, 2: the first of its changes, 3: any sectors.
func (f *file) survivor(mode int, dice *rand.Rand, copies map[*file]*file, d *disk) *file {
	if copies[f] != nil {
		return copies[f]
	}
	now := d.newFile(f.name, f.mode)
	copies[f] = now
	now.time, now.kept = f.time, f.kept
	ops, steps := 0, 0
	switch mode {
	case 1:
		ops, steps = len(f.ops), len(f.steps)
	case 2, 3:
		ops, steps = dice.IntN(len(f.ops)+1), dice.IntN(len(f.steps)+1)
	}
	for i, c := range f.ops {
		switch {
		case mode == 3:
			for _, part := range c.sectors() {
				if dice.IntN(2) == 0 {
					now.kept = part.apply(now.kept)
				}
			}
		case i < ops:
			now.kept = c.apply(now.kept)
		}
	}
	now.text = bytes.Clone(now.kept)
	if f.names == nil {
		return now
	}
	firm := maps.Clone(f.firm)
	for _, s := range f.steps[:steps] {
		s.apply(firm)
	}
	for _, name := range slices.Sorted(maps.Keys(firm)) {
		now.firm[name] = firm[name].survivor(mode, dice, copies, d)
	}
	now.names = maps.Clone(now.firm)
	return now
}

// sectors cuts a write where a disk may.
func (c change) sectors() (parts []change) {
	for at, text := c.at, c.text; len(text) > 0; {
		n := min(len(text), sector-at%sector)
		parts = append(parts, change{at, text[:n]})
		at, text = at+n, text[n:]
	}
	if c.text == nil {
		parts = []change{c}
	}
	return parts
}

// What the kernel asks.

func (d *disk) attr(f *file, out *fuse.Attr) {
	links := 0
	for _, folder := range d.files {
		for _, other := range folder.names {
			if other == f {
				links++
			}
		}
	}
	out.Ino, out.Mode, out.Size, out.Nlink, out.Blksize = f.id, f.mode, uint64(len(f.text)), uint32(links), 4096
	out.Blocks = (out.Size + 511) / 512
	out.SetTimes(&f.time, &f.time, &f.time)
}

func (d *disk) entry(f *file, out *fuse.EntryOut) {
	out.NodeId, out.Generation = f.id, 1
	d.attr(f, &out.Attr)
}

func (d *disk) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if failed := d.enter("", nil); failed != fuse.OK {
		d.mu.Unlock()
		return failed
	}
	defer d.mu.Unlock()
	folder := d.files[in.NodeId]
	if folder == nil || folder.names[name] == nil {
		return fuse.ENOENT
	}
	d.entry(folder.names[name], out)
	return fuse.OK
}

func (d *disk) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f, done, failed := d.begin("", in.NodeId)
	defer done()
	if failed == fuse.OK {
		d.attr(f, &out.Attr)
	}
	return failed
}

// begin is enter for the file of an id. done must be called.
func (d *disk) begin(kind string, id uint64) (f *file, done func(), failed fuse.Status) {
	d.mu.Lock()
	f = d.files[id]
	d.mu.Unlock()
	if f == nil { // from before the power cut
		return nil, func() {}, fuse.Status(syscall.ESTALE)
	}
	failed = d.enter(kind, f)
	return f, d.mu.Unlock, failed
}

func (d *disk) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	kind := ""
	if in.Valid&fuse.FATTR_SIZE != 0 {
		kind = "write"
	}
	f, done, failed := d.begin(kind, in.NodeId)
	defer done()
	if failed != fuse.OK {
		return failed
	}
	if mode, ok := in.GetMode(); ok {
		f.mode = f.mode&syscall.S_IFMT | mode&0o7777
	}
	if size, ok := in.GetSize(); ok {
		f.change(change{at: int(size)})
	}
	if at, ok := in.GetMTime(); ok {
		f.time = at
	}
	d.attr(f, &out.Attr)
	return fuse.OK
}

// create makes something new in a folder.
func (d *disk) create(id uint64, name string, mode uint32, out *fuse.EntryOut) (*file, fuse.Status) {
	folder, done, failed := d.begin("create", id)
	defer done()
	if failed != fuse.OK {
		return nil, failed
	}
	if folder.names[name] != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	f := d.newFile(name, mode)
	folder.take(step{name: name, file: f})
	d.entry(f, out)
	return f, fuse.OK
}

func (d *disk) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, failed := d.create(in.NodeId, name, syscall.S_IFDIR|in.Mode, out)
	return failed
}

func (d *disk) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	_, failed := d.create(in.NodeId, name, in.Mode, out)
	return failed
}

func (d *disk) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	f, failed := d.create(in.NodeId, name, syscall.S_IFREG|in.Mode, &out.EntryOut)
	if failed == fuse.OK {
		out.OpenFlags = f.openFlags()
	}
	return failed
}

// openFlags: nothing is cached but what is mapped.
func (f *file) openFlags() uint32 {
	if strings.HasSuffix(f.name, "-shm") {
		return fuse.FOPEN_KEEP_CACHE
	}
	return fuse.FOPEN_DIRECT_IO
}

func (d *disk) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	f, done, failed := d.begin("", in.NodeId)
	defer done()
	if failed == fuse.OK {
		out.OpenFlags = f.openFlags()
	}
	return failed
}

func (d *disk) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	folder, done, failed := d.begin("create", in.NodeId)
	defer done()
	if failed != fuse.OK {
		return failed
	}
	f := d.files[in.Oldnodeid]
	if f == nil || folder.names[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	folder.take(step{name: name, file: f})
	d.entry(f, out)
	return fuse.OK
}

func (d *disk) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	folder, done, failed := d.begin("unlink", in.NodeId)
	defer done()
	if failed == fuse.OK {
		folder.take(step{name: name})
	}
	return failed
}

func (d *disk) Rmdir(c <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return d.Unlink(c, in, name)
}

// Rename knows one folder, which is all that a home needs.
func (d *disk) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	folder, done, failed := d.begin("rename", in.NodeId)
	defer done()
	switch {
	case failed != fuse.OK:
		return failed
	case in.Newdir != in.NodeId, in.Flags != 0:
		return fuse.Status(syscall.EXDEV)
	case folder.names[from] == nil:
		return fuse.ENOENT
	}
	folder.take(step{to, folder.names[from], from})
	return fuse.OK
}

func (d *disk) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f, done, failed := d.begin("read", in.NodeId)
	defer done()
	if failed != fuse.OK {
		return nil, failed
	}
	from := min(int(in.Offset), len(f.text))
	to := min(from+int(in.Size), len(f.text))
	return fuse.ReadResultData(bytes.Clone(f.text[from:to])), fuse.OK
}

func (d *disk) Write(_ <-chan struct{}, in *fuse.WriteIn, text []byte) (uint32, fuse.Status) {
	f, done, failed := d.begin("write", in.NodeId)
	defer done()
	if failed != fuse.OK {
		return 0, failed
	}
	d.counts["short "+f.name]++
	if len(text) > 1 && d.strikes("short", f) {
		text = text[:len(text)/2]
	}
	at := int(in.Offset)
	if in.Flags&syscall.O_APPEND != 0 {
		at = len(f.text)
	}
	f.change(change{at, text})
	return uint32(len(text)), fuse.OK
}

func (d *disk) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	f, done, failed := d.begin("fsync", in.NodeId)
	defer done()
	switch failed {
	case fuse.OK:
		f.sync()
	case fuse.EIO:
		f.ops, f.steps = nil, nil // lost, and nobody will hear of it again
	}
	return failed
}

func (d *disk) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return d.Fsync(c, in) }

func (d *disk) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (d *disk) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

func (d *disk) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (d *disk) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	folder, done, failed := d.begin("", in.NodeId)
	defer done()
	if failed != fuse.OK {
		return failed
	}
	for i, name := range slices.Sorted(maps.Keys(folder.names)) {
		f := folder.names[name]
		if i < int(in.Offset) {
			continue
		}
		if !out.AddDirEntry(fuse.DirEntry{Mode: f.mode, Name: name, Ino: f.id, Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}

func (d *disk) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = 1<<20, 1<<20, 1<<20, 1<<20, 1<<20
	return fuse.OK
}

// TestDisk: the disk itself forgets what was not synced, and only that.
func TestDisk(t *testing.T) {
	d := newDisk(t)
	path := func(name string) string { return filepath.Join(d.dir, name) }
	write := func(name, text string, sync bool) {
		t.Helper()
		f, err := os.OpenFile(path(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if sync && f.Sync() != nil {
			t.Fatal("no sync")
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	folder, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	write("kept", "one ", true)
	write("moved", "x", true)
	if err := folder.Sync(); err != nil {
		t.Fatal(err)
	}
	folder.Close()
	write("kept", "two", false)
	write("nameless", "x", true)
	if err := os.Rename(path("moved"), path("away")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path("kept")); err != nil || string(text) != "one two" {
		t.Fatalf("before: %q %v", text, err)
	}
	d.arm(fault{"fsync", "kept", 1, 1})
	f, err := os.OpenFile(path("kept"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if first, second := f.Sync(), f.Sync(); first == nil || second != nil {
		t.Errorf("a failing fsync: %v, and the next: %v", first, second)
	}
	f.Close()
	d.powerCut(nil)
	entries, err := os.ReadDir(d.dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "kept" || entries[1].Name() != "moved" {
		t.Errorf("after: %v %v", entries, err)
	}
	if text, err := os.ReadFile(path("kept")); err != nil || string(text) != "one " {
		t.Errorf("after: %q %v", text, err)
	}
}

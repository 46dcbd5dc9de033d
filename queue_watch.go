package main

// Who follows a job, and how its transitions reach them.

import "slices"

// Watcher receives a job's transitions. C is closed after a terminal one, when the queue stops, or when the reader
// lags too far behind.
type Watcher struct {
	C   chan *Job
	seq int64
}

// send delivers j, or closes C; false: there is no more to come.
func (w *Watcher) send(j *Job) bool {
	select {
	case w.C <- j:
		if !j.finished() {
			return true
		}
	default:
	}
	close(w.C)
	return false
}

// Watch follows a job from its present state on, without its result; the caller must Unwatch.
func (q *Queue) Watch(prefix string) (*Watcher, error) {
	seq, err := q.Store.JobSeq(prefix)
	if err != nil {
		return nil, err
	}
	w := &Watcher{C: make(chan *Job, watchBuffer), seq: seq}
	q.mu.Lock()
	if q.stopping {
		q.mu.Unlock()
		return nil, errStoreClosed
	}
	q.watchers[seq] = append(q.watchers[seq], w)
	r := q.running[seq]
	if r != nil && r.job != nil && !r.cancelled { // a cancelled one has ended, though its request may not have
		w.send(r.job)
		q.mu.Unlock()
		return w, nil
	}
	q.mu.Unlock()
	present, err := q.Store.JobBySeq(seq, 0)
	if err != nil {
		q.Unwatch(w)
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	// What came in while this was read is newer.
	if len(w.C) == 0 && slices.Contains(q.watchers[seq], w) && !w.send(present) {
		q.dropLocked(seq, func(o *Watcher) bool { return o == w })
	}
	return w, nil
}

// Unwatch ends a watch.
func (q *Queue) Unwatch(w *Watcher) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(w.seq, func(o *Watcher) bool { return o == w })
}

// notifyLocked tells the watchers of j, without its result: they may be many, and slow.
func (q *Queue) notifyLocked(j *Job) {
	if len(q.watchers[j.Seq]) == 0 {
		return
	}
	if j.Result != "" {
		bare := *j
		bare.ResultBytes = int64(len(j.Result))
		bare.Result = ""
		j = &bare
	}
	q.dropLocked(j.Seq, func(w *Watcher) bool { return !w.send(j) })
}

// dropLocked takes watchers of a job off the list.
func (q *Queue) dropLocked(seq int64, gone func(*Watcher) bool) {
	if rest := slices.DeleteFunc(q.watchers[seq], gone); len(rest) > 0 {
		q.watchers[seq] = rest
	} else {
		delete(q.watchers, seq)
	}
}

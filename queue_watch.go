package main

// Who follows a job, and how its transitions reach them. A watcher is on the list before the job's present state is
// read, so that no transition can slip in between:
//
//	Watch    on the list ---- reads "running" ---------------- "completed" came in: newer, and "running" is dropped
//	writer                                     "completed"
//
// Watchers are never waited for: a sender holds Queue.mu.

import "slices"

// watchBuffer is how many transitions a slow watcher may lag behind.
const watchBuffer = 64

// Watcher receives a job's transitions. C is closed after a terminal one, when the queue stops, or when the reader
// lags too far behind.
type Watcher struct {
	C   chan *Job
	seq int64
}

// send delivers j, or closes C; false: there is no more to come. Then the watcher must leave the list, since C is
// closed only once.
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
	present, err := q.addWatcher(w)
	if err != nil {
		return nil, err
	}
	if present == nil {
		present, err = q.Store.JobBySeq(seq, 0)
	}
	if err != nil {
		q.Unwatch(w)
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	listed := slices.Contains(q.watchers[seq], w)
	if !listed || len(w.C) > 0 { // what came in meanwhile is newer
		return w, nil
	}
	if !w.send(present) {
		q.dropLocked(w)
	}
	return w, nil
}

// addWatcher puts w on the list, and returns the job as it runs, nil if it does not. A cancelled one has ended, though
// its request may not have.
func (q *Queue) addWatcher(w *Watcher) (*Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping {
		return nil, errStoreClosed
	}
	q.watchers[w.seq] = append(q.watchers[w.seq], w)
	a := q.running[w.seq]
	if a == nil || a.cancelled {
		return nil, nil
	}
	return a.job, nil
}

// Unwatch ends a watch.
func (q *Queue) Unwatch(w *Watcher) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(w)
}

// dropLocked takes a watcher off the list, if it is still on it.
func (q *Queue) dropLocked(gone *Watcher) {
	q.keepLocked(gone.seq, func(w *Watcher) bool { return w != gone })
}

// notifyLocked tells the watchers of j, without its result: they may be many, and slow.
func (q *Queue) notifyLocked(j *Job) {
	if len(q.watchers[j.Seq]) == 0 {
		return
	}
	bare := *j
	if bare.Result != "" {
		bare.ResultBytes = int64(len(bare.Result))
		bare.Result = ""
	}
	q.keepLocked(j.Seq, func(w *Watcher) bool { return w.send(&bare) })
}

// keepLocked strikes off the list of a job's watchers those that are not to be kept.
func (q *Queue) keepLocked(seq int64, keep func(*Watcher) bool) {
	rest := slices.DeleteFunc(q.watchers[seq], func(w *Watcher) bool { return !keep(w) })
	if len(rest) == 0 {
		delete(q.watchers, seq)
		return
	}
	q.watchers[seq] = rest
}

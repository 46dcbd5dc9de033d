package main

// The one place that turns errors into words and exit codes, and that finds out why a daemon does not answer.

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explain is the one place where errors become words and exit codes.
func (c *cli) explain(err error) (exit int, text, hint string) {
	e, grpcCode := asError(err)
	text = neutral(e.Message)
	hint = neutral(e.Hint)
	ended, isExit := errors.AsType[exitError](err)
	switch {
	case isExit && ended.code != 0:
		return ended.code, text, hint
	case errors.Is(err, errInterrupted), grpcCode == codes.Canceled:
		return exitInterrupted, "interrupted", ""
	case errors.Is(err, errNotRunning):
		return c.explainDead()
	case grpcCode == codes.Unavailable, grpcCode == codes.DeadlineExceeded:
		return c.explainSilence(grpcCode, text)
	case grpcCode == codes.Unimplemented:
		return exitFailed, "the daemon is of another release and does not know this",
			"restart it with: honeydew stop && honeydew start"
	}
	switch e.Code {
	case codeShuttingDown:
		return exitNotRunning, "the daemon is shutting down", "start it again with: honeydew start"
	case codeAuthRequired, codeAuthExpired, codeAuthInvalid:
		return exitLogin, text, cmp.Or(hint, "log in with: honeydew login")
	case codeInvalidArgument, codeUnknownCommand:
		return exitUsage, text, hint
	}
	return exitFailed, text, hint
}

// explainSilence says why no answer came, where text is what gRPC says of it.
func (c *cli) explainSilence(code codes.Code, text string) (exit int, said, hint string) {
	stranger := c.stranger.Load()
	if stranger != nil {
		return exitFailed, neutral((*stranger).Error()),
			"do not trust it; remove it, or let $HONEYDEW_SOCKET or daemon.socket_path name your own daemon's"
	}
	if err := checkSocketPath(c.socketPath()); err != nil {
		refusal, _ := asError(err)
		return exitUsage, neutral(refusal.Message), neutral(refusal.Hint)
	}
	elsewhere := c.otherSocket()
	if elsewhere != "" && code == codes.Unavailable && isNobodyThere(text) {
		said = "the daemon is not running: nobody listens at " + elsewhere + ", which $HONEYDEW_SOCKET names"
		return exitNotRunning, neutral(said), "unset HONEYDEW_SOCKET; then, if none runs: honeydew start"
	}
	// Whether a daemon runs is what its lock says: a socket tells a stopped or busy daemon from a dead one badly.
	held, err := c.daemonHolds(code)
	_, misconfigured := c.config()
	inWay := checkSocketFree(c.socketPath())
	switch {
	case outOfFiles(err), strings.Contains(text, syscall.EMFILE.Error()):
		return exitFailed, "too many open files: this process may open no more, and so cannot ask the daemon",
			"raise the limit, for example with: ulimit -n 256"
	case strings.Contains(text, syscall.EACCES.Error()):
		return exitFailed, "the daemon's socket is not yours to use",
			"it belongs to another user; let HONEYDEW_HOME, or HONEYDEW_SOCKET if it is set, name your own"
	case err != nil:
		said = fmt.Sprintf("the daemon does not answer, and whether it runs is not known: %v", err)
		return exitFailed, neutral(said), "look with: honeydew doctor"
	case held && misconfigured != nil:
		said = "a daemon runs, but where it listens cannot be read: " + errorText(misconfigured)
		return exitFailed, said, "correct the file, and try again"
	case held && inWay != nil:
		return exitFailed, neutral(inWay.Error()), "the daemon makes its socket again a second later"
	case held && isNobodyThere(text):
		said = fmt.Sprintf("the daemon (pid %s) is only starting, or is stopping: it does not listen", c.daemonPID())
		return exitFailed, said, "try again; see also: honeydew logs"
	case held:
		pid := c.daemonPID()
		said = fmt.Sprintf("the daemon runs (pid %s) but does not answer: busy or stopped", pid)
		hint = fmt.Sprintf("try again; kill -CONT %s wakes a stopped one, kill %s ends it; see also: honeydew logs",
			pid, pid)
		return exitFailed, said, hint
	case code == codes.DeadlineExceeded:
		return exitFailed, "no answer came in time, and no daemon of this home runs",
			"see which socket is asked with: honeydew doctor"
	}
	return c.explainDead()
}

// explainDead says that no daemon runs, and what a start needs first, as far as that shows without one.
func (c *cli) explainDead() (exit int, said, hint string) {
	cfg, err := c.checkedConfig()
	if err == nil && exists(c.home) {
		err = checkHome(c.home)
	}
	if err == nil {
		err = checkSocketFree(cfg.Daemon.SocketPath)
	}
	if err != nil && !errors.Is(err, errOpenHome) { // which a start closes
		fault, _ := asError(err)
		said = fmt.Sprintf("%v, and would not start: %s", errNotRunning, neutral(fault.Message))
		return exitNotRunning, said, cmp.Or(neutral(fault.Hint), "see to that first; then: honeydew start")
	}
	said = errNotRunning.Error()
	hint = cmp.Or(lostDatabase(cfg), "start it with: honeydew start")
	line := c.lastWords()
	if line != "" {
		said += "; the last one said: " + neutral(line)
		hint = "see to that first; then: honeydew start"
	}
	return exitNotRunning, said, hint
}

// lostDatabase is what to do about a database that was there and is gone; "" where it is there, or never was.
func lostDatabase(cfg *Config) string {
	path := cfg.Storage.DatabasePath
	lock, err := os.Stat(path + ".lock")
	if exists(path) || err != nil || lock.Size() == 0 { // whoever has opened the database has noted that there
		return ""
	}
	return path + " is gone. Put it, or a backup, there again. Then, or to begin with an empty one: honeydew start"
}

// otherSocket is the socket that $HONEYDEW_SOCKET names in place of the home's own, of which the home's lock says
// nothing; "" if it does not.
func (c *cli) otherSocket() string {
	if c.getenv("HONEYDEW_SOCKET") == "" {
		return ""
	}
	cfg, _ := c.config() // else the defaults
	path := c.socketPath()
	if path == cfg.Daemon.SocketPath {
		return ""
	}
	return path
}

// isNobodyThere reports whether gRPC's text says that no process listens at the socket.
func isNobodyThere(text string) bool {
	return strings.Contains(text, syscall.ENOENT.Error()) || strings.Contains(text, syscall.ECONNREFUSED.Error())
}

// daemonHolds reports whether a daemon holds the lock of the home. One whose connection broke may be at its end, and
// is given a moment to reach it.
func (c *cli) daemonHolds(code codes.Code) (bool, error) {
	patience := time.Now().Add(endPatience)
	for {
		held, err := lockHeld(lockPath(c.home))
		if err != nil || !held {
			return false, err
		}
		if code != codes.Unavailable || time.Now().After(patience) {
			return true, nil
		}
		time.Sleep(poll)
	}
}

// daemonPID is the daemon's process, as its PID file has it.
func (c *cli) daemonPID() string {
	cfg, _ := c.config()                       // else the defaults
	text, _ := os.ReadFile(cfg.Daemon.PIDFile) // else "", which is no number either
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return "unknown"
	}
	return strconv.Itoa(pid)
}

// outOfFiles reports whether err is that of a process, or of a system, that can open no more files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// asError is err as an Error, whether it arose here or came from the daemon; the code is that of gRPC where gRPC itself
// failed, which our daemon's errors tell from their own by their reason.
func asError(err error) (*Error, codes.Code) {
	own, ok := errors.AsType[*Error](err)
	if ok {
		return own, codes.OK
	}
	st, ok := status.FromError(err) // nobody wraps one, which would put the whole of its text into the message
	if !ok {
		return &Error{Message: err.Error()}, codes.OK
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if ok && info.Domain == errorDomain {
			e := &Error{
				Code:    info.Reason,
				Message: st.Message(),
				Hint:    info.Metadata["hint"],
			}
			return e, codes.OK
		}
	}
	return &Error{Message: st.Message()}, st.Code()
}

// errorText is an error for people.
func errorText(err error) string {
	e, _ := asError(err)
	return neutral(e.Message)
}

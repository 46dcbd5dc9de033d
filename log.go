package main

// The log: gives slog's JSON lines the keys, levels and times of our contract, and hands them to the log file.
//
// It has no lock and no state of its own. Invariants: one record is one line and one Write; a value under a secret's
// key is never written; a line of level error is in the file when the call returns.
//
// slog's JSON handler with ReplaceAttr costs two small allocations and 1.4 to 2 us a line (BenchmarkLogLine). One of our
// own was tried: two thirds of the time for a hundred lines more, too little for them.

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// newLogger opens the log. The caller closes the file, after the last line.
func newLogger(cfg *Config, stderr io.Writer) (*slog.Logger, *logFile, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Logging.Level)); err != nil {
		return nil, nil, err
	}
	file, err := newLogFile(logFileOptions{
		Path:       cfg.Logging.File,
		MaxBytes:   int64(cfg.Logging.MaxSizeMB) << 20,
		MaxBackups: cfg.Logging.MaxBackups,
		MaxAge:     time.Duration(cfg.Logging.MaxAgeDays) * 24 * time.Hour,
		Compress:   cfg.Logging.Compress,
		Stderr:     stderr,
	})
	if err != nil {
		return nil, nil, err
	}
	return slog.New(newLineHandler(level, file)), file, nil
}

// lineHandler is slog's JSON handler, which cannot know that a line must not wait in a buffer.
type lineHandler struct {
	slog.Handler
	file *logFile
}

func newLineHandler(level slog.Level, file *logFile) slog.Handler {
	return lineHandler{slog.NewJSONHandler(file, &slog.HandlerOptions{Level: level, ReplaceAttr: contractAttr}), file}
}

// Handle writes r. What goes wrong is the log file's to report: slog drops this error.
func (h lineHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelError { // it may be the last thing the process has to say
		err = errors.Join(err, h.file.Flush())
	}
	return err
}

func (h lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lineHandler{h.Handler.WithAttrs(attrs), h.file}
}

func (h lineHandler) WithGroup(name string) slog.Handler {
	return lineHandler{h.Handler.WithGroup(name), h.file}
}

// contractAttr rewrites one attribute into the contract's form.
func contractAttr(groups []string, a slog.Attr) slog.Attr {
	if isSecretKey(a.Key) || slices.ContainsFunc(groups, isSecretKey) {
		return slog.String(a.Key, "[redacted]")
	}
	if a.Value.Kind() == slog.KindTime {
		a.Value = slog.StringValue(timeText(a.Value.Time()))
	}
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key = "timestamp"
	case slog.MessageKey:
		a.Key = "message"
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(strings.ToLower(level.String()))
		}
	}
	return a
}

// isSecretKey is the belt to the braces: no caller logs a secret, and if one ever does, it stops here.
func isSecretKey(key string) bool {
	switch strings.ToLower(key) {
	case "password", "token", "access_token", "refresh_token", "authorization", "passphrase":
		return true
	}
	return false
}

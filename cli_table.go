package main

// Tables: which columns there is room for, and how wide a text is on a terminal.

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

const columnGap = "  "

// column is one column of a table.
type column struct {
	index int
	width int
	worth int // what is worth least is cut first, and left out first
	least int // width below which it is not cut
}

// newColumn is the column with that head. The first one of a table is what one wants to copy, unless it is a long hash.
func newColumn(index int, head string, width int) column {
	c := column{
		index: index,
		width: width,
		worth: 3,
		least: 16,
	}
	kind := head[strings.LastIndex(head, " ")+1:] // HTML URL and URL are of one kind
	switch {
	case head == "COMMIT ID":
		kind = "SHA"
	case index == 0 && kind != "SHA":
		kind = "STATUS" // is worth as much
	}
	switch kind {
	case "STATUS":
		c.worth = 5
		c.least = 40
	case "COMMAND", "NAME":
		c.worth = 4
	case "TITLE", "SUMMARY", "MESSAGE", "COMMENT":
		c.worth = 4
		c.least = 18
	case "SHA":
		c.worth = 2
		c.least = 10
	case "ERROR": // its code has room
		c.worth = 2
	case "ARGUMENTS":
		c.worth = 1
		c.least = 10
	case "ENVIRONMENT", "DESCRIPTION", "BODY", "URL", "EMAIL", "ADDITIONS", "DELETIONS", "FILES":
		c.worth = 0
	}
	c.least = min(c.least, width)
	return c
}

// fit leaves columns out, and cuts others, until a row fits a line of that width. For a column of no worth, none of
// the others is cut.
func fit(columns []column, width int) []column {
	slices.SortFunc(columns, func(a, b column) int { return cmp.Or(a.worth-b.worth, b.index-a.index) })
	over := -len(columnGap) - width
	atLeast := over
	for _, c := range columns {
		over += c.width + len(columnGap)
		atLeast += c.least + len(columnGap)
	}
	for len(columns) > 1 {
		c := columns[0]
		room := atLeast <= 0
		if c.worth == 0 {
			room = over <= c.width-c.least
		}
		if room {
			break
		}
		over -= c.width + len(columnGap)
		atLeast -= c.least + len(columnGap)
		columns = columns[1:]
	}
	for i := range columns {
		less := min(max(over, 0), columns[i].width-columns[i].least)
		columns[i].width -= less
		over -= less
	}
	slices.SortFunc(columns, func(a, b column) int { return a.index - b.index })
	return columns
}

// textWidth is how many columns of a terminal a text takes.
func textWidth(text string) int {
	sum := 0
	for text != "" {
		size, width := character(text)
		sum += width
		text = text[size:]
	}
	return sum
}

// fitted is a text cut, or filled with blanks, to that many columns.
func fitted(text string, columns int) string {
	text = cut(text, columns)
	return text + strings.Repeat(" ", max(0, columns-textWidth(text)))
}

// cut is a text, or as much of it as fits so many columns.
func cut(text string, columns int) string {
	if textWidth(text) <= columns {
		return text
	}
	end := 0
	left := columns - 1 // for the ellipsis
	for {
		size, width := character(text[end:])
		if width > left {
			return text[:end] + "…"
		}
		end += size
		left -= width
	}
}

// character measures what a person would call the first character of a text: its bytes and its columns. That is a
// letter with its marks, a family with its joiners, a flag with its two letters.
func character(text string) (size, width int) {
	var before rune
	for i, r := range text {
		columns := runeWidth(r)
		tone := r >= 0x1f3fb && r <= 0x1f3ff && width == 2
		flag := isFlagLetter(r) && isFlagLetter(before) && i == len("🇦")
		switch {
		case i == 0:
			width = columns
		case tone, flag, before == '\u200d', r == '\ufe0f': // the last one makes a symbol an emoji
			width = 2
		case columns > 0:
			return i, width
		}
		before = r
	}
	return len(text), width
}

func isFlagLetter(r rune) bool {
	return r >= 0x1f1e6 && r <= 0x1f1ff
}

// runeWidth is how many columns a character takes on its own. The scripts of East Asia, their punctuation and emoji
// take two.
func runeWidth(r rune) int {
	const emoji = "⌚⌛⏩⏪⏫⏬⏰⏳◽◾☔☕♈♉♊♋♌♍♎♏♐♑♒♓♿⚓⚡⚪⚫⚽" +
		"⚾⛄⛅⛎⛔⛪⛲⛳⛵⛺⛽✅✊✋✨❌❎❓❔❕❗➕➖➗➰➿⬛⬜⭐⭕"
	switch {
	case r < 0x300, isFlagLetter(r), r > 0xff60 && r < 0xffe0: // the last ones are half as wide
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf), r >= 0x1160 && r < 0x1200: // the last ones end a syllable
		return 0
	case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana, unicode.Bopomofo, unicode.Yi),
		r >= 0x3000 && r < 0x3400,
		r >= 0xfe10 && r < 0xffe7,
		r >= 0x1f18e && r < 0x1fb00,
		strings.ContainsRune(emoji, r):
		return 2
	}
	return 1
}

package main

// What an operation asks for, seen before it is executed: the token check, the faults and the counters need the names
// of the root fields, and the GraphQL library keeps its parser to itself. This reads no more than it must, and what it
// cannot name (a fragment) it gives as "...", which no rule here lets pass.

import (
	"slices"
	"strings"
)

// isAuth is true for an operation that asks for tokens and nothing else, so needs none.
func isAuth(fields []string) bool {
	return len(fields) > 0 && !slices.ContainsFunc(fields, func(f string) bool { return f != "login" && f != "refreshToken" })
}

// rootFields gives the top-level fields of the operation that would be executed; none if there is no such operation.
func rootFields(query, operationName string) []string {
	tokens := lex(query)
	for i := 0; i < len(tokens); {
		kind, name := tokens[i], ""
		if kind != "{" {
			if i++; i < len(tokens) && isName(tokens[i]) {
				name = tokens[i]
			}
			i = skipTo(tokens, i, "{")
		}
		fields, next := selection(tokens, i+1)
		if kind != "fragment" && (operationName == "" || operationName == name) {
			return fields
		}
		i = next
	}
	return nil
}

// selection reads from behind a "{" to behind its "}" and names what stands directly in it.
func selection(tokens []string, i int) (fields []string, next int) {
	for depth := 1; i < len(tokens) && depth > 0; i++ {
		switch t := tokens[i]; {
		case t == "{":
			depth++
		case t == "}":
			depth--
		case t == "(":
			i = skipTo(tokens, i, ")")
		case t == "@":
			i++
		case depth > 1:
		case t == "...":
			fields = append(fields, t)
			if i+1 < len(tokens) && isName(tokens[i+1]) {
				if i++; tokens[i] == "on" {
					i++
				}
			}
		case isName(t) && i+1 < len(tokens) && tokens[i+1] == ":":
			i++ // an alias; its field comes next
		case isName(t):
			fields = append(fields, t)
		}
	}
	return fields, i
}

// skipTo finds the first want outside parentheses, and so the ")" that closes the "(" at i.
func skipTo(tokens []string, i int, want string) int {
	for depth := 0; i < len(tokens); i++ {
		switch tokens[i] {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 && tokens[i] == want {
			return i
		}
	}
	return i
}

// lex splits a document into names, "..." and single characters; strings, comments and commas are dropped.
func lex(s string) (tokens []string) {
	for s != "" {
		n := 1
		switch c := s[0]; {
		case strings.HasPrefix(s, `"""`):
			n = blockString(s)
			s = s[n:]
			continue
		case c == '"':
			for n < len(s) && s[n] != '"' {
				if s[n] == '\\' {
					n++
				}
				n++
			}
			s = s[min(n+1, len(s)):]
			continue
		case c == '#':
			n = len(s)
			if end := strings.IndexAny(s, "\r\n"); end >= 0 {
				n = end
			}
			s = s[n:]
			continue
		case strings.HasPrefix(s, "..."):
			n = 3
		case isNameByte(c):
			for n < len(s) && isNameByte(s[n]) {
				n++
			}
		case strings.IndexByte(" \t\r\n,\uFEFF", c) >= 0:
			s = s[1:]
			continue
		}
		tokens, s = append(tokens, s[:n]), s[n:]
	}
	return tokens
}

// blockString gives the length of the block string that s begins with.
func blockString(s string) int {
	for i := 3; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\"""`) {
			i += 3
		} else if strings.HasPrefix(s[i:], `"""`) {
			return i + 3
		}
	}
	return len(s)
}

func isName(token string) bool { return isNameByte(token[0]) }

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

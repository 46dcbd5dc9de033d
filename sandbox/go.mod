module honeydew/sandbox

go 1.26.0

require github.com/graph-gophers/graphql-go v1.11.0

require (
	github.com/rogpeppe/go-internal v1.16.0
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/tools v0.52.0 // indirect
)

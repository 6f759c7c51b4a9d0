module interop

go 1.19

require github.com/mickamy/go-trace v0.0.1

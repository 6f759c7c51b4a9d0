module github.com/mickamy/go-trace

go 1.19

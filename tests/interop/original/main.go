// One end of a conversation with weir, made of go-trace's package tracer as it is documented.
//
//	interop send SOCKET                     reads events, one JSON object a line; sends each as a line, on one connection
//	interop load SOCKET SPANS CONNECTIONS   sends so many spans, each start and end, spread over the connections
//	interop collect SOCKET                  prints every completed span, and at SIGTERM what Traces says
//	interop view SOCKET                     prints every span that the view server sends, until that closes or at SIGTERM
//	interop serve SOCKET                    a view server: broadcasts the spans that it reads, one JSON object a line
//
// Each says "ready" on standard output once it listens. `serve` knows a word besides: "wait N" returns ("ready") when N
// clients are connected.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/mickamy/go-trace/tracer"
)

// What is printed of a span: the trace id as the callback was told, and the span.
type told struct {
	TraceID string      `json:"trace_id"`
	Span    tracer.Span `json:"span"`
}

var (
	out     = bufio.NewWriterSize(os.Stdout, 1<<16)
	outLock sync.Mutex
)

func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	outLock.Lock()
	defer outLock.Unlock()
	out.Write(append(line, '\n'))
	out.Flush()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: interop send|load|collect|view|serve SOCKET …")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	socket := os.Args[2]
	switch os.Args[1] {
	case "send":
		send(socket)
	case "load":
		spans, err := strconv.Atoi(os.Args[3])
		check(err)
		connections, err := strconv.Atoi(os.Args[4])
		check(err)
		load(socket, spans, connections)
	case "collect":
		collect(ctx, socket)
	case "view":
		view(ctx, socket)
	case "serve":
		serve(ctx, socket)
	default:
		log.Fatal("unknown command ", os.Args[1])
	}
}

// lines calls each with every line of standard input, however long.
func lines(each func(line []byte)) {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			each(line)
		}
		if err == io.EOF {
			return
		}
		check(err)
	}
}

func send(socket string) {
	connection, err := net.Dial("unix", socket)
	check(err)
	encoder := json.NewEncoder(connection)
	lines(func(line []byte) {
		var wanted tracer.Event
		check(json.Unmarshal(line, &wanted))
		var event tracer.Event
		switch wanted.Type {
		case tracer.EventSpanStart:
			event = tracer.NewSpanStartEvent(wanted.SpanID, wanted.TraceID, wanted.ParentID, wanted.Name, wanted.Kind, wanted.Time)
		case tracer.EventSpanEnd:
			event = tracer.NewSpanEndEvent(wanted.SpanID, wanted.TraceID, wanted.Time, wanted.Attrs)
		}
		check(encoder.Encode(event))
	})
	check(connection.Close())
}

func load(socket string, spans, connections int) {
	var all sync.WaitGroup
	for c := 0; c < connections; c++ {
		all.Add(1)
		go func(c int) {
			defer all.Done()
			connection, err := net.Dial("unix", socket)
			check(err)
			writer := bufio.NewWriterSize(connection, 1<<16)
			encoder := json.NewEncoder(writer)
			for n := c; n < spans; n += connections {
				id, trace := fmt.Sprintf("%016x", n+1), fmt.Sprintf("%016x", n/10+1)
				parent := ""
				if n%10 != 0 {
					parent = fmt.Sprintf("%016x", n-n%10+1)
				}
				begin := time.Unix(1_700_000_000, int64(n)).UTC()
				kind := []tracer.SpanKind{tracer.SpanKindFunction, tracer.SpanKindHTTP, tracer.SpanKindSQL}[n%3]
				check(encoder.Encode(tracer.NewSpanStartEvent(id, trace, parent, "load", kind, begin)))
				check(encoder.Encode(tracer.NewSpanEndEvent(id, trace, begin.Add(time.Microsecond), map[string]string{"n": strconv.Itoa(n)})))
			}
			check(writer.Flush())
			check(connection.Close())
		}(c)
	}
	all.Wait()
}

func collect(ctx context.Context, socket string) {
	collector := tracer.NewCollector(socket)
	collector.OnSpanComplete(func(traceID string, span tracer.Span) { say(told{traceID, span}) })
	check(collector.Listen(ctx))
	served := make(chan error, 1)
	go func() { served <- collector.Serve(ctx) }()
	say("ready")
	<-ctx.Done()
	<-served
	say(collector.Traces())
}

func view(ctx context.Context, socket string) {
	err := tracer.NewViewClient(socket).Run(ctx, func(traceID string, span tracer.Span) { say(told{traceID, span}) })
	if ctx.Err() == nil {
		check(err)
	}
}

func serve(ctx context.Context, socket string) {
	server := tracer.NewViewServer(socket)
	check(server.Listen(ctx))
	go server.Serve(ctx)
	say("ready")
	lines(func(line []byte) {
		var clients int
		if n, _ := fmt.Sscanf(string(line), "wait %d", &clients); n == 1 {
			for server.ConnCount() != clients {
				time.Sleep(time.Millisecond)
			}
			say("ready")
			return
		}
		var span tracer.Span
		check(json.Unmarshal(line, &span))
		server.Broadcast(span)
	})
	check(server.Close())
}

package tracer

import (
	"context"
	"encoding/json"
	"io"
	"net"
)

type ViewServer struct{ listener }

func NewViewServer(socketPath string) *ViewServer {
	return &ViewServer{listener: listener{path: socketPath}}
}

func (s *ViewServer) Serve(ctx context.Context) error {
	return s.serve(ctx, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
}

func (s *ViewServer) Start(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	return s.Serve(ctx)
}

func (s *ViewServer) Broadcast(span Span) {
	line, err := json.Marshal(span)
	if err != nil {
		return
	}
	line = append(line, '\n')
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for conn := range s.conns {
		if _, err := conn.Write(line); err != nil {
			delete(s.conns, conn)
			conn.Close()
		}
	}
}

func (s *ViewServer) ConnCount() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.conns)
}

func (s *ViewServer) Close() error { return s.close() }

type ViewClient struct{ path string }

func NewViewClient(socketPath string) *ViewClient { return &ViewClient{path: socketPath} }

func (c *ViewClient) Run(ctx context.Context, onSpan func(traceID string, span Span)) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			conn.Close()
		case <-done:
		}
	}()
	err = eachLine(conn, func(line []byte) {
		var span Span
		if json.Unmarshal(line, &span) == nil {
			onSpan(span.TraceID, span)
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

package tracer

import (
	"context"
	"encoding/json"
	"net"
	"sync"
)

type Collector struct {
	listener
	onSpanComplete func(traceID string, span Span)
	store          sync.Mutex
	open           map[string]Event
	completed      map[string][]Span // by trace, in the order of ends
}

func NewCollector(socketPath string) *Collector {
	return &Collector{listener: listener{path: socketPath}, open: map[string]Event{}, completed: map[string][]Span{}}
}

func (c *Collector) OnSpanComplete(fn func(traceID string, span Span)) { c.onSpanComplete = fn }

func (c *Collector) Serve(ctx context.Context) error {
	return c.serve(ctx, func(conn net.Conn) {
		_ = eachLine(conn, func(line []byte) {
			var event Event
			if json.Unmarshal(line, &event) == nil {
				c.take(event)
			}
		})
	})
}

func (c *Collector) Start(ctx context.Context) error {
	if err := c.Listen(ctx); err != nil {
		return err
	}
	return c.Serve(ctx)
}

func (c *Collector) take(event Event) {
	c.store.Lock()
	if event.Type == EventSpanStart {
		c.open[event.SpanID] = event
		c.store.Unlock()
		return
	}
	start, known := c.open[event.SpanID]
	if event.Type != EventSpanEnd || !known {
		c.store.Unlock()
		return
	}
	delete(c.open, event.SpanID)
	span := NewSpan(start.SpanID, start.TraceID, start.Name, start.Kind, start.Time, event.Time).WithParentID(start.ParentID)
	span.Attrs = event.Attrs
	c.completed[span.TraceID] = append(c.completed[span.TraceID], span)
	c.store.Unlock()
	if c.onSpanComplete != nil {
		c.onSpanComplete(span.TraceID, span.Clone())
	}
}

func (c *Collector) Traces() map[string][]Span {
	c.store.Lock()
	defer c.store.Unlock()
	traces := map[string][]Span{}
	for traceID, spans := range c.completed {
		children := map[string][]Span{}
		for _, span := range spans {
			children[span.ParentID] = append(children[span.ParentID], span)
		}
		for _, root := range children[""] {
			traces[traceID] = append(traces[traceID], withChildren(root, children))
		}
	}
	return traces
}

func withChildren(span Span, children map[string][]Span) Span {
	for _, child := range children[span.ID] {
		span = span.WithChild(withChildren(child, children))
	}
	return span
}

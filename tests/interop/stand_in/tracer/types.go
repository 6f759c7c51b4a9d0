// Package tracer has the names, fields and JSON tags that go-trace documents, and behaves as its documentation says.
package tracer

import (
	"fmt"
	"time"
)

type SpanKind int

const (
	SpanKindFunction SpanKind = iota
	SpanKindHTTP
	SpanKindSQL
)

func (k SpanKind) String() string {
	switch k {
	case SpanKindFunction:
		return "function"
	case SpanKindHTTP:
		return "http"
	case SpanKindSQL:
		return "sql"
	}
	return fmt.Sprintf("unknown(%d)", int(k))
}

type EventType int

const (
	EventSpanStart EventType = iota
	EventSpanEnd
)

func (e EventType) String() string {
	switch e {
	case EventSpanStart:
		return "span_start"
	case EventSpanEnd:
		return "span_end"
	}
	return fmt.Sprintf("unknown(%d)", int(e))
}

type Event struct {
	Type     EventType         `json:"type"`
	SpanID   string            `json:"span_id"`
	TraceID  string            `json:"trace_id"`
	ParentID string            `json:"parent_id,omitzero"`
	Name     string            `json:"name"`
	Kind     SpanKind          `json:"kind"`
	Time     time.Time         `json:"time"`
	Attrs    map[string]string `json:"attrs,omitzero"`
}

func NewSpanStartEvent(spanID, traceID, parentID, name string, kind SpanKind, t time.Time) Event {
	return Event{Type: EventSpanStart, SpanID: spanID, TraceID: traceID, ParentID: parentID, Name: name, Kind: kind, Time: t}
}

func NewSpanEndEvent(spanID, traceID string, t time.Time, attrs map[string]string) Event {
	return Event{Type: EventSpanEnd, SpanID: spanID, TraceID: traceID, Time: t, Attrs: attrs}
}

type Span struct {
	ID        string            `json:"id"`
	TraceID   string            `json:"trace_id"`
	ParentID  string            `json:"parent_id,omitzero"`
	Name      string            `json:"name"`
	Kind      SpanKind          `json:"kind"`
	StartTime time.Time         `json:"start_time"`
	EndTime   time.Time         `json:"end_time"`
	Attrs     map[string]string `json:"attrs,omitzero"`
	Children  []Span            `json:"children,omitzero"`
}

func NewSpan(id, traceID, name string, kind SpanKind, startTime, endTime time.Time) Span {
	return Span{ID: id, TraceID: traceID, Name: name, Kind: kind, StartTime: startTime, EndTime: endTime}
}

func (s Span) Duration() time.Duration { return s.EndTime.Sub(s.StartTime) }

func (s Span) Clone() Span {
	if s.Attrs != nil {
		attrs := make(map[string]string, len(s.Attrs))
		for key, value := range s.Attrs {
			attrs[key] = value
		}
		s.Attrs = attrs
	}
	if s.Children != nil {
		children := make([]Span, 0, len(s.Children))
		for _, child := range s.Children {
			children = append(children, child.Clone())
		}
		s.Children = children
	}
	return s
}

func (s Span) WithAttr(key, value string) Span {
	s = s.Clone()
	if s.Attrs == nil {
		s.Attrs = map[string]string{}
	}
	s.Attrs[key] = value
	return s
}

func (s Span) WithChild(child Span) Span {
	s = s.Clone()
	s.Children = append(s.Children, child.Clone())
	return s
}

func (s Span) WithParentID(parentID string) Span {
	s = s.Clone()
	s.ParentID = parentID
	return s
}

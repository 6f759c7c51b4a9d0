package tracer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

const maxLine = 1 << 20

// listener is what Collector and ViewServer have in common: a Unix socket and the connections to it.
type listener struct {
	path   string
	mutex  sync.Mutex
	socket net.Listener
	conns  map[net.Conn]struct{}
	closed bool
}

func (l *listener) Listen(ctx context.Context) error {
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "unix", l.path)
	if err != nil {
		return err
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.socket = socket
	l.conns = map[net.Conn]struct{}{}
	return nil
}

// serve hands every connection to handle, on a goroutine of its own, until the context or the listener ends.
func (l *listener) serve(ctx context.Context, handle func(net.Conn)) error {
	l.mutex.Lock()
	socket := l.socket
	l.mutex.Unlock()
	if socket == nil {
		return errors.New("tracer: not listening on " + l.path)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			l.close()
		case <-done:
		}
	}()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	for {
		conn, err := socket.Accept()
		if err != nil {
			if l.isClosed() {
				return nil
			}
			return err
		}
		if !l.add(conn) {
			conn.Close()
			return nil
		}
		handlers.Add(1)
		go func() {
			defer handlers.Done()
			handle(conn)
			l.remove(conn)
		}()
	}
}

func (l *listener) isClosed() bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.closed
}

func (l *listener) add(conn net.Conn) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed {
		return false
	}
	l.conns[conn] = struct{}{}
	return true
}

func (l *listener) remove(conn net.Conn) {
	l.mutex.Lock()
	delete(l.conns, conn)
	l.mutex.Unlock()
	conn.Close()
}

func (l *listener) close() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.closed || l.socket == nil {
		return nil
	}
	l.closed = true
	for conn := range l.conns {
		conn.Close()
	}
	return l.socket.Close() // removes the file, too
}

func (l *listener) SocketPath() string { return l.path }

// eachLine calls take with every line, until the other side closes or sends one that is too long.
func eachLine(reader io.Reader, take func(line []byte)) error {
	scanner := bufio.NewScanner(reader)
	scanner.Buffer(make([]byte, 0, 1<<16), maxLine)
	for scanner.Scan() {
		take(scanner.Bytes())
	}
	return scanner.Err()
}

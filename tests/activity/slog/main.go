// Writes the lines that the handlers of log/slog write for the records it reads.
//
//	slog RECORDS LINES
//
// A record is a line of words: nanoseconds since 1970, level, message, then three words for each attribute: kind, key, value.
// Text is x and its bytes in hex. Kinds: s text, i integer, f bits of a double, b 0 or 1, d nanoseconds, j JSON text.
// Each record becomes two lines, text and JSON. Before them stands the version of Unicode.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"log"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func text(word string) string { return string(must(hex.DecodeString(word[1:]))) }

func integer(word string) int64 { return must(strconv.ParseInt(word, 10, 64)) }

func attribute(kind, key, value string) slog.Attr {
	switch kind {
	case "s":
		return slog.String(key, text(value))
	case "i":
		return slog.Int64(key, integer(value))
	case "f":
		return slog.Float64(key, math.Float64frombits(must(strconv.ParseUint(value, 10, 64))))
	case "b":
		return slog.Bool(key, value == "1")
	case "d":
		return slog.Duration(key, time.Duration(integer(value)))
	case "j":
		return slog.Any(key, json.RawMessage(text(value)))
	}
	log.Fatalf("no kind: %q", kind)
	return slog.Attr{}
}

func main() {
	records := bufio.NewScanner(must(os.Open(os.Args[1])))
	records.Buffer(nil, 1<<24)
	file := must(os.Create(os.Args[2]))
	lines := bufio.NewWriter(file)
	must(lines.WriteString(unicode.Version + "\n"))
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	handlers := []slog.Handler{slog.NewTextHandler(lines, options), slog.NewJSONHandler(lines, options)}
	for records.Scan() {
		words := strings.Split(records.Text(), " ")
		record := slog.NewRecord(time.Unix(0, integer(words[0])).UTC(), slog.Level(integer(words[1])), text(words[2]), 0)
		for rest := words[3:]; len(rest) > 0; rest = rest[3:] {
			record.AddAttrs(attribute(rest[0], text(rest[1]), rest[2]))
		}
		for _, handler := range handlers {
			if err := handler.Handle(context.Background(), record); err != nil {
				log.Fatal(err)
			}
		}
	}
	for _, err := range []error{records.Err(), lines.Flush(), file.Close()} {
		if err != nil {
			log.Fatal(err)
		}
	}
}

module slog

go 1.21

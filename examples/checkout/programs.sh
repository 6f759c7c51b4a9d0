# What the demo's scripts share: programs that run beside each other, and what they write. Sourced; $work is a directory of the
# script's own.
# shellcheck shell=bash
: "${work:?}"

fail() {
  printf 'demo: %s\n' "$1" >&2
  if [[ -n ${2-} && -s $2 ]]; then sed 's/^/  /' "$2" >&2; fi
  exit 1
}
# wait_for FILE TEXT PID: until the program has written TEXT.
wait_for() {
  local tries=0
  until grep -q "$2" "$1" 2>/dev/null; do
    kill -0 "$3" 2>/dev/null || fail "a program ended before it was ready:" "$1"
    ((++tries < 400)) || fail "a program was not ready after 20 s:" "$1"
    sleep 0.05
  done
}
# number FILE KEY: the integer under KEY in the last line of FILE, which is JSON; nothing if it is not there.
number() { tail -n 1 "$1" | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"; }
text() { tail -n 1 "$1" | sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p"; }

# start NAME COMMAND...: a program of which $work holds NAME.pid and, when it has ended, NAME.status; sets `started`. The
# shell around it has no stderr, because bash would say there that somebody killed the program; and a Ctrl-C reaches only
# this script, which ends them in order.
start() {
  local name=$1
  shift
  rm -f "$work/$name.pid" "$work/$name.status"
  {
    setsid "$@" 2>"$work/$name.log" &
    printf '%s\n' "$!" >"$work/$name.pid"
    status=0
    wait "$!" || status=$?
    printf '%s\n' "$status" >"$work/$name.status"
  } 2>/dev/null &
  until [[ -s $work/$name.pid ]]; do sleep 0.01; done
  # shellcheck disable=SC2034  # for the caller
  started=$(<"$work/$name.pid")
}
# ended NAME: waits for a program that was told to end; its status.
ended() {
  until [[ -s $work/$1.status ]]; do sleep 0.02; done
  return "$(<"$work/$1.status")"
}

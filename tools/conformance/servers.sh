# For the checks of this folder, which source it: servers to run clients against. The caller sets
# `root`, `build` and `work` (a temporary folder that it removes).

servers=()

# Ends what start_model and start_parrot have started.
stop_servers() {
  local pid
  for pid in "${servers[@]}"; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  servers=()
}

# need FILE: names the script and the file that has to be built first.
need() {
  if [ ! -x "$1" ]; then
    echo "$(basename "$0"): there is no $1; build it first" >&2
    exit 2
  fi
}

# wait_for PID FILE PATTERN: sets `url` to what the pattern's group matches.
wait_for() {
  local _
  url=
  for _ in $(seq 600); do
    url=$(sed -n "s/$3/\1/p" "$2" | head -1)
    [ -n "$url" ] && return
    if ! kill -0 "$1" 2>/dev/null; then
      cat "$2" >&2
      exit 1
    fi
    sleep 0.1
  done
  echo "$(basename "$0"): no server after 60 s" >&2
  exit 1
}

# start_model FLAGS...: serves a tiny random-weight model with the API key "secret"; sets `url`, and
# `model_pid` for a caller that wants its exit code.
start_model() {
  need "$build/causeway"
  [ -d "$work/model" ] || "$build/causeway" make-model --preset tiny-v32 --output "$work/model"
  "$build/causeway" serve --model-path "$work/model" --served-model-name tiny --port 0 \
    --api-key secret --context-length 4096 --max-total-tokens 16384 "$@" 2>"$work/log" &
  model_pid=$!
  servers+=("$model_pid")
  wait_for "$model_pid" "$work/log" '.*event=serving url=\([^ ]*\).*'
}

# start_parrot FORMAT: an engine that says what the user says, with the key "secret"; sets `url`.
start_parrot() {
  need "$build/parrot_server"
  local in=$work/parrot-in-$1 out=$work/parrot-$1
  mkfifo "$in"
  "$build/parrot_server" "$1" secret <"$in" >"$out" 2>&1 &
  servers+=($!)
  exec {parrot_in}>"$in"  # open as long as this shell lives: the parrot ends with its input
  wait_for "${servers[-1]}" "$out" '\(http:[^ ]*\).*'
}

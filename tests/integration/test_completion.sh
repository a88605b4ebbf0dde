# shellcheck shell=bash
# What bash completes: words of the program's own help, and jobs of a daemon that runs. None is
# started for it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
mkdir "$T/bin"
ln -s "$ORC" "$T/bin/orchestrator"
PATH=$T/bin:$PATH
. "$ROOT/config/completion.bash"

completes() { # WORDS...: what the last of them may become, in one line
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	COMPREPLY=()
	_orchestrator 2>/dev/null || true
	echo "${COMPREPLY[*]}"
}

expect_equal commands "list logs" "$(completes orchestrator l)"
expect_equal options --no-start "$(completes orchestrator list jobs --no)"
expect_equal "jobs without a daemon" "" "$(completes orchestrator logs '')"
[[ ! -e $ORCHESTRATOR_RUNTIME_DIR/control.sock ]] || fail "a daemon was started"
id=$(orc submit --image "$IMAGE" -- sleep 100)
expect_equal "jobs of a daemon" "$id" "$(completes orchestrator logs "${id:0:3}")"
expect_equal "jobs of another one" "" "$(completes orchestrator --state-dir "$T/other" cancel '')"
state=$ORCHESTRATOR_STATE_DIR
expect_equal "jobs of this one by its directory" "$id" "$(
	unset ORCHESTRATOR_STATE_DIR
	completes orchestrator --state-dir "$state" cancel ''
)"
orc cancel "$id" >/dev/null

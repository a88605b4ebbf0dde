# shellcheck shell=bash
# What the tests that are shell scripts say of what they expect. T is the test's directory. A test that
# fails ends with 1, one that this machine cannot show with 77.

# fail WORDS...: with the line of the test that led here.
fail() {
	local i=0
	while [[ ${BASH_SOURCE[i]} == "${BASH_SOURCE[0]}" && ${BASH_SOURCE[i + 1]:-} ]]; do
		i=$((i + 1))
	done
	printf 'FAILED at %s:%s: %s\n' "${BASH_SOURCE[i]##*/}" "${BASH_LINENO[i - 1]}" "$*"
	exit 1
}

# This machine cannot show what the test is about.
not_verified() {
	printf '%s\n' "$*" >"$T/not-verified"
	exit 77
}

# expect_exit CODE COMMAND...: its output is in $T/out and $T/err.
expect_exit() {
	local expected=$1 code=0
	shift
	printf '+ %s\n' "$*"
	"$@" >"$T/out" 2>"$T/err" </dev/null || code=$?
	[[ $code == "$expected" ]] && return
	printf 'exit %s where %s was expected\n' "$code" "$expected"
	head -c 4000 "$T/out" "$T/err" | cat -v
	fail "$*"
}

# expect_match REGEX FILE, and its opposite.
expect_match() {
	grep -Eq -- "$1" "$2" && return
	head -c 4000 "$2" | cat -v
	fail "nothing in $2 matches: $1"
}

expect_no_match() {
	grep -Eq -- "$1" "$2" || return 0
	head -c 4000 "$2" | cat -v
	fail "something in $2 matches: $1"
}

# expect_equal WHAT EXPECTED ACTUAL
expect_equal() {
	[[ $2 == "$3" ]] || fail "$1 is '$3', expected '$2'"
}

# wait_until SECONDS COMMAND...: until it succeeds.
wait_until() {
	local deadline=$((SECONDS + $1)) seconds=$1
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail "still not so after $seconds s: $*"
		sleep 0.1
	done
}

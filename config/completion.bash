# bash completion for orchestrator. Commands and options are asked from its own help, so that they
# cannot go out of date; jobs are asked from the daemon, if one runs: a key is no reason to start it.

_orchestrator_commands() {
	orchestrator --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p'
}

_orchestrator_options() {
	orchestrator help $1 2>/dev/null | grep -oE -- '^  (-[a-zA-Z], |    )--[a-z-]+' |
		grep -oE -- '--[a-z-]+'
}

_orchestrator() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command='' i
	local which=() # daemon and images
	COMPREPLY=()

	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--) return ;; # the job's own words
		--config | --state-dir)
			which+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]/#\~\//$HOME/}")
			((i++))
			;;
		-o | --format) ((i++)) ;;
		-*) ;;
		*) [[ -z $command ]] && command=${COMP_WORDS[i]} ;;
		esac
	done

	case $prev in
	-o | --format)
		COMPREPLY=($(compgen -W 'table json yaml name' -- "$cur"))
		return
		;;
	--config | --input | --output-dir | --state-dir)
		compopt -o default
		return
		;;
	--image)
		COMPREPLY=($(compgen -W "$(orchestrator "${which[@]}" list images -q -o name 2>/dev/null)" -- "$cur"))
		return
		;;
	--state)
		COMPREPLY=($(compgen -W 'queued starting running collecting finished' -- "$cur"))
		return
		;;
	esac

	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$(_orchestrator_options "$command")" -- "$cur"))
		return
	fi
	case $command in
	'' | help)
		COMPREPLY=($(compgen -W "$(_orchestrator_commands)" -- "$cur"))
		;;
	list)
		COMPREPLY=($(compgen -W 'jobs vms images pools' -- "$cur"))
		;;
	run | submit | validate)
		compopt -o filenames
		COMPREPLY=($(compgen -f -X '!*.@(yaml|yml)' -- "$cur") $(compgen -d -- "$cur"))
		;;
	status | logs | result | wait | cancel | retry)
		COMPREPLY=($(compgen -W "$(orchestrator "${which[@]}" list jobs --no-start -n 1000 -q -o name 2>/dev/null)" -- "$cur"))
		;;
	esac
}

complete -F _orchestrator orchestrator

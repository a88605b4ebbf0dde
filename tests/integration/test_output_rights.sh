# shellcheck shell=bash
# What only root may read in the guest does not come home by a link that the job made.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

cat >job.yaml <<YAML
image: $IMAGE
run: |
  cat /etc/shadow >/dev/null 2>&1 && echo readable
  ln -s /etc/shadow linked
  umask 077
  mkdir mine && echo mine >mine/file
working_dir: /tmp
outputs:
  - mine
  - {path: linked, optional: true}
YAML
orc run job.yaml >"$T/out" 2>"$T/err" || true
id=$(last_job)
[[ ! -s $T/out ]] || not_verified "the job itself may read /etc/shadow in this image"
dir=$(job_dir "$id")/artifacts
expect_equal "its own file" mine "$(cat "$dir/mine/file")"
[[ ! -e $dir/linked ]] || fail "/etc/shadow came home"

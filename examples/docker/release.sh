#!/usr/bin/env bash
# Releases what is new in the git repository of the current folder, with docker and nothing else:
#
#   SLOGPT_REPO_ID=me/my-model HF_TOKEN=... bash release.sh
#
# Settings are SLOGPT_... variables or .slogpt-hf.yml. Each stage runs in a container of its own; the
# one that reads checkpoints has neither network nor token, the one that has the token reads none.
# A CI whose jobs run the stages apart names the folder that they hand on, and the stages:
#
#   bash release.sh FOLDER prepare prove
#   bash release.sh FOLDER publish report
set -euo pipefail

image=${IMAGE:-ghcr.io/slogpt/slogpt-hf:0.1.0}
repository=$(git rev-parse --show-toplevel)
if [ $# -gt 0 ]; then
  work=$1 && shift
  mkdir -p "$work"
  work=$(cd "$work" && pwd)
else
  work=$(mktemp -d "${TMPDIR:-/tmp}/slogpt-hf-XXXXXX")
  trap 'rm -rf "$work"' EXIT
fi
if [ $# -eq 0 ]; then set -- prepare prove publish report; fi

# Names of variables that a stage may see, as regular expressions. Docker reads the values itself.
hub='HF_ENDPOINT|HF_HUB_[A-Z_]+|[A-Z]+_PROXY|[a-z]+_proxy'
run="CI|JENKINS_URL|BUILD_(ID|NUMBER|URL)|JOB_NAME|BRANCH_NAME|TAG_NAME|CHANGE_[A-Z_]+|ghprb[A-Za-z]+|gitlab(SourceBranch|MergeRequestIid)|\
GIT_((LOCAL_)?BRANCH|COMMIT|PREVIOUS_(SUCCESSFUL_)?COMMIT|URL)|\
CIRCLECI|CIRCLE_(BRANCH|BUILD_(NUM|URL)|PROJECT_[A-Z]+|PR_[A-Z]+|PULL_REQUESTS?|REPOSITORY_URL|SHA1|TAG)|\
TF_BUILD|BUILD_(BUILDID|REASON|REPOSITORY_[A-Z]+|SOURCE(BRANCH|BRANCHNAME|VERSION))|\
SYSTEM_(DEBUG|JOBATTEMPT|PULLREQUEST_[A-Z]+|COLLECTIONURI|TEAMPROJECT)"
identity='HF_TOKEN|HF_OIDC_[A-Z_]+'

in_container() {
  local stage=$1 name user options=(--env HOME=/tmp --env HF_HOME=/tmp/hf) sees folder=$repository
  case $stage in
    prepare)
      sees="SLOGPT_[A-Z_]+|GIT_CONFIG_[A-Z0-9_]+|$hub|$run|$identity"
      options+=(--volume "$repository:$repository:ro" --volume "$work:$work")
      ;;
    prove)
      sees=''
      options+=(--network none --env HF_HUB_OFFLINE=1 --volume "$repository:$repository:ro" --volume "$work:$work:ro")
      options+=(--volume "$work/proof:$work/proof")
      # A checkout may have left a token in there.
      if [ -d "$repository/.git" ]; then options+=(--tmpfs "$repository/.git"); fi
      ;;
    publish)
      sees="$hub|$run|$identity" folder=$work
      options+=(--volume "$work:$work" --volume "$work/proof:$work/proof:ro")
      ;;
    report)
      sees=$run folder=$work
      options+=(--volume "$work:$work")
      ;;
    *)
      echo "usage: bash release.sh [FOLDER [prepare|prove|publish|report]...]" >&2
      exit 2
      ;;
  esac
  while read -r name; do
    if [ -n "${!name}" ]; then options+=(--env "$name"); fi
  done < <(compgen -e | grep -Ex "$sees" || true)
  if [ -n "${SLOGPT_HUB:-}" ] && [ "$stage" != prove ]; then # a folder instead of the Hub
    options+=(--volume "$SLOGPT_HUB:$SLOGPT_HUB")
  fi
  user=$(id -u):$(id -g)
  docker run --rm --user "$user" --read-only --cap-drop ALL --security-opt no-new-privileges \
    --tmpfs /tmp --workdir "$folder" "${options[@]}" "$image" ci "$stage" "$work"
}

# A checkpoint that is refused fails this script and keeps none of the others from being published.
code=0
for stage in "$@"; do
  case $stage in
    prepare) in_container prepare ;;
    prove)
      in_container prove || code=$?
      rm -rf "$work/checkpoints" "$work/cache" # not needed any more, and large
      ;;
    *) in_container "$stage" || code=$? ;;
  esac
done
exit "$code"

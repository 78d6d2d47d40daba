#!/bin/sh
# Builds base images for the examples from Debian's packages and the installed Go,
# for machines that can't reach a registry, and builds the examples on them. Needs
# root, mmdebstrap and Docker.
#
#   examples/build-images.sh                     all of it
#   examples/build-images.sh go python nginx     only these bases
#   examples/build-images.sh examples            only the examples, on bases made before
# SUITE and MIRROR select the Debian release and mirror, GO the go command.
set -eu
cd "$(dirname "$0")/.."
suite=${SUITE:-bookworm} go=${GO:-go} tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export DOCKER_BUILDKIT=0 # the builder that every Docker has

# base NAME PACKAGES CHANGES [MMDEBSTRAP OPTION...]: an image made of packages.
base() {
	name=$1 packages=$2 changes=$3 && shift 3
	echo "local/$name: $packages" >&2
	mmdebstrap --quiet --variant=minbase --include="$packages" "$@" "$suite" "$tmp/$name.tar" ${MIRROR:-}
	docker import --change "$changes" "$tmp/$name.tar" "local/$name" >/dev/null
}

# Adds the modules of go.mod, and no others, to Go's image as a file proxy, so that
# the Dockerfiles download them without a network.
modules() {
	GOFLAGS=-modcacherw GOMODCACHE=$tmp/mod GOSUMDB=off \
		GOPROXY="file://$($go env GOMODCACHE)/cache/download,$($go env GOPROXY)" $go mod download
	printf 'FROM local/debian-go-plain\nCOPY cache/download /go/proxy\n' >"$tmp/mod/Dockerfile"
	docker build --quiet -t local/debian-go "$tmp/mod" >/dev/null
}

# build IMAGE DOCKERFILE [OPTION...]
build() {
	image=$1 file=$2 && shift 2
	echo "local/$image: $file" >&2
	docker build --quiet --network none -t "local/$image" -f "$file" --build-arg GO_IMAGE=local/debian-go "$@" . >/dev/null
}

for what in ${*:-go python nginx examples}; do
	case $what in
	go)
		base debian-go-plain ca-certificates \
			"ENV PATH=/usr/local/go/bin:/usr/bin:/bin GOPROXY=file:///go/proxy GOTOOLCHAIN=local" \
			--customize-hook="cp -a '$($go env GOROOT)' \"\$1/usr/local/go\""
		modules
		;;
	python) base debian-fastapi python3-fastapi,python3-uvicorn "ENV PATH=/usr/bin:/bin" ;;
	nginx) base debian-nginx nginx-light "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin" ;;
	examples)
		modules
		build drainit examples/init-container/Dockerfile
		build drainit-plain examples/server/Dockerfile --target plain
		build drainit-server examples/server/Dockerfile
		build drainit-nginx examples/nginx/Dockerfile --build-arg NGINX_IMAGE=local/debian-nginx
		build drainit-fastapi Dockerfile.example --build-arg RUNTIME_IMAGE=local/debian-fastapi --build-arg INSTALL= ;;
	*) echo "$what: go, python, nginx or examples" >&2 && exit 2 ;;
	esac
done

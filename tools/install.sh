#!/usr/bin/env bash
# Puts the real clients, servers and suites that the tests talk to into a cache
# outside the tree, and prints what to put on PATH:
#
#   PATH="$(tools/install.sh cosign crane oras):$PATH"
#
# Each folder NAME/ beside this script is a Go module that pins one tool with a
# `tool` directive; it is built from the module proxy, checked against its own
# go.sum. skopeo, shellcheck and postgresql are Debian packages; playwright/ is an
# npm package that pins its own. See README.md.
#
# stdout: one line, the folders joined by ":".  stderr: progress and errors.
# Exit: 0 all there, 1 one could not be built or installed, 64 usage.
#
# ASSAY_TOOLS       cache folder (${XDG_CACHE_HOME:-$HOME/.cache}/assay-tools)
# ASSAY_TOOLS_JOBS  packages compiled at once (default: Go's own, one per core)
set -euo pipefail
shopt -s inherit_errexit

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
debian=(playwright postgresql shellcheck skopeo softhsm2)
flags=(-trimpath -ldflags='-s -w') # no path of the builder, no debug tables

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

usage() {
	cat >&2 <<-USAGE
		usage: tools/install.sh NAME...   build or install, print the folders for PATH
		       tools/install.sh --list    the names, and whether each is ready
	USAGE
}

cache_root() {
	local root=${ASSAY_TOOLS:-${XDG_CACHE_HOME:-${HOME:?set HOME or ASSAY_TOOLS}/.cache}/assay-tools}
	mkdir -p -- "$root"
	(cd -- "$root" && pwd -P)
}

# Names of the modules beside this script.
modules() {
	local mod
	for mod in "$here"/*/go.mod; do
		basename -- "$(dirname -- "$mod")"
	done
}

# Packages that module $1 pins.
packages() {
	awk '$1 == "tool" && $2 != "(" { print $2 }
		$1 == "tool" { block = $2 == "("; next }
		$1 == ")" { block = 0 }
		block { print $1 }' "$here/$1/go.mod"
}

# Where module $1 is kept: everything that decides the bytes is in the name.
module_dir() {
	local key
	key=$({
		printf '%s\n' "${flags[@]}"
		cat -- "$here/$1/go.mod" "$here/$1/go.sum"
		cd -- "$here/$1" && GOWORK=off go env GOVERSION GOOS GOARCH
	} | sha256sum | cut -c1-16)
	printf '%s/%s-%s\n' "$root" "$1" "$key"
}

# Builds module $1 into folder $2. A folder with its final name is complete: it is
# built aside and renamed.
build_module() (
	# A second caller waits for the first rather than compile the same again.
	if command -v flock >/dev/null; then
		exec 9>"$root/.$1.lock"
		flock 9
	fi
	[[ ! -d $2 ]] || exit 0
	tmp=$(mktemp -d -- "$root/.$1.XXXXXX")
	trap 'rm -rf -- "$tmp"' EXIT
	say "$1: building, once"
	cd -- "$here/$1"
	args=(-mod=readonly "${flags[@]}" -o "$tmp/bin/")
	[[ -z ${ASSAY_TOOLS_JOBS:-} ]] || args+=(-p "$ASSAY_TOOLS_JOBS")
	# Not 9: a compiler that outlives a killed call must not hold the lock.
	GOWORK=off GOFLAGS='' CGO_ENABLED=0 go build "${args[@]}" tool >&2 9>&- ||
		die "$1: could not be built"
	# Without flock another caller may have won the race: its folder serves.
	mv -T -- "$tmp/bin" "$2" 2>/dev/null || [[ -d $2 ]] || die "$1: could not be moved to $2"
	say "$1: ready"
)

# Builds module $1 unless it is there, and prints its folder.
install_module() {
	local dir
	command -v go >/dev/null || die "$1: go is not on PATH"
	dir=$(module_dir "$1")
	[[ -d $dir ]] || build_module "$1" "$dir"
	printf '%s\n' "$dir"
}

# Installs Debian packages $2... so that $1 can go on.
apt_install() (
	name=$1
	shift
	command -v apt-get >/dev/null ||
		die "$name: not found, and there is no apt-get here: install $* by hand and call again"
	as=()
	if [[ $(id -u) != 0 ]]; then
		sudo -n true 2>/dev/null ||
			die "$name: not found; as root: apt-get install --no-install-recommends $*"
		as=(sudo -n)
	fi
	# Two callers would fail on each other's package lists.
	if command -v flock >/dev/null; then
		exec 9>"$root/.apt.lock"
		flock 9
	fi
	say "$name: installing Debian package $*"
	apt=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
	"${apt[@]}" update >&2 9>&- || say "$name: apt-get update failed, trying with the lists at hand"
	"${apt[@]}" install -y --no-install-recommends "$@" >&2 9>&- ||
		die "$name: apt-get could not install $*"
)

# A folder with a link to program $1 of Debian's package $1 alone: /usr/bin in front of PATH would hide others.
install_program() {
	local dir=$root/$1-debian real
	command -v "$1" >/dev/null || apt_install "$1" "$1"
	real=$(command -v "$1") || die "$1: still not on PATH after its package was installed"
	[[ $real == "$dir/$1" ]] || { mkdir -p -- "$dir" && ln -sfn -- "$real" "$dir/$1"; }
	printf '%s\n' "$dir"
}

# The newest folder with the PostgreSQL server's own programs, or nothing.
postgresql_dir() {
	local dir
	printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | while read -r dir; do
		if [[ -x $dir/initdb && -x $dir/pg_ctl && -x $dir/postgres ]]; then
			printf '%s\n' "$dir"
		fi
	done | tail -n 1
}

install_postgresql() {
	local dir
	dir=$(postgresql_dir)
	if [[ -z $dir ]]; then
		apt_install postgresql postgresql
		dir=$(postgresql_dir)
	fi
	[[ -n $dir ]] || die "postgresql: no initdb, pg_ctl and postgres under /usr/lib/postgresql/*/bin"
	printf '%s\n' "$dir"
}

# SoftHSM, a PKCS #11 token in software: its package is unpacked into the cache,
# which needs no root and leaves the machine as it is.
install_softhsm2() (
	dir=$root/softhsm2-debian
	if command -v flock >/dev/null; then
		exec 9>"$root/.softhsm2.lock"
		flock 9
	fi
	if [[ ! -x $dir/usr/bin/softhsm2-util ]]; then
		command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
			die "softhsm2: there is no apt-get here: unpack Debian's softhsm2 and libsofthsm2 into $dir"
		say "softhsm2: unpacking Debian packages softhsm2 libsofthsm2"
		tmp=$(mktemp -d -- "$root/.softhsm2.XXXXXX")
		trap 'rm -rf -- "$tmp"' EXIT
		cd -- "$tmp"
		apt-get -qq download softhsm2 libsofthsm2 >&2 9>&- ||
			die "softhsm2: apt-get could not download softhsm2 and libsofthsm2; as root: apt-get update"
		for deb in ./*.deb; do
			dpkg-deb -x "$deb" "$tmp/root"
		done
		missing=$(ldd "$tmp"/root/usr/lib/*/softhsm/libsofthsm2.so | grep 'not found' || true)
		[[ -z $missing ]] || die "softhsm2: libraries are missing: $missing"
		mv -T -- "$tmp/root" "$dir" || die "softhsm2: could not be moved to $dir"
		say "softhsm2: ready"
	fi
	printf '%s\n' "$dir/usr/bin"
)

# Chromium is Debian's; what drives it, and the rules that pages are held to, are
# npm packages, pinned with their hashes by playwright/package-lock.json. The
# folder has links to node and chromium, and node_modules beside them.
install_playwright() (
	dir=$(playwright_dir)
	if command -v flock >/dev/null; then
		exec 9>"$root/.playwright.lock"
		flock 9
	fi
	if ! command -v node >/dev/null || ! command -v npm >/dev/null; then apt_install playwright nodejs npm 9>&-; fi
	command -v chromium >/dev/null || apt_install playwright chromium 9>&-
	if [[ ! -d $dir ]]; then
		say "playwright: installing npm packages"
		tmp=$(mktemp -d -- "$root/.playwright.XXXXXX")
		trap 'rm -rf -- "$tmp"' EXIT
		cp -- "$here/playwright/package.json" "$here/playwright/package-lock.json" "$tmp/"
		(cd -- "$tmp" && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --ignore-scripts --no-audit --no-fund >&2 9>&-) ||
			die "playwright: npm could not install playwright-core and axe-core"
		ln -s -- "$(command -v node)" "$tmp/node"
		ln -s -- "$(command -v chromium)" "$tmp/chromium"
		mv -T -- "$tmp" "$dir" || die "playwright: could not be moved to $dir"
		say "playwright: ready"
	fi
	printf '%s\n' "$dir"
)

playwright_dir() {
	printf '%s/playwright-%s\n' "$root" "$(cat -- "$here"/playwright/package*.json | sha256sum | cut -c1-16)"
}

list() {
	local name state
	root=$(cache_root)
	for name in $(modules); do
		state=-
		[[ ! -d $(module_dir "$name") ]] || state=ready
		printf '%-14s %-6s %s\n' "$name" "$state" "$(packages "$name" | paste -sd' ')"
	done
	state=-
	[[ -z $(postgresql_dir) ]] || state=ready
	printf '%-14s %-6s %s\n' postgresql "$state" 'Debian package postgresql'
	state=-
	! command -v skopeo >/dev/null || state=ready
	printf '%-14s %-6s %s\n' skopeo "$state" 'Debian package skopeo'
	state=-
	! command -v shellcheck >/dev/null || state=ready
	printf '%-14s %-6s %s\n' shellcheck "$state" 'Debian package shellcheck'
	state=-
	[[ ! -d $(playwright_dir) ]] || state=ready
	printf '%-14s %-6s %s\n' playwright "$state" 'npm packages playwright-core, axe-core; Debian package chromium'
	state=-
	[[ ! -x $root/softhsm2-debian/usr/bin/softhsm2-util ]] || state=ready
	printf '%-14s %-6s %s\n' softhsm2 "$state" 'Debian packages softhsm2, libsofthsm2, unpacked'
}

main() {
	local name dirs=()
	case ${1:-} in
	--list)
		[[ $# == 1 ]] || { usage; exit 64; }
		list
		return
		;;
	-h | --help)
		usage
		return
		;;
	'' | -*)
		usage
		exit 64
		;;
	esac
	# Every name before any work, so that a typing error costs no build.
	for name in "$@"; do
		[[ $name =~ ^[a-z0-9-]+$ && -f $here/$name/go.mod || " ${debian[*]} " == *" $name "* ]] || {
			say "unknown tool \"$name\"; known: $(modules | paste -sd' ') ${debian[*]}"
			exit 64
		}
	done
	root=$(cache_root)
	for name in "$@"; do
		case $name in
		shellcheck | skopeo) dirs+=("$(install_program "$name")") ;;
		postgresql) dirs+=("$(install_postgresql)") ;;
		playwright) dirs+=("$(install_playwright)") ;;
		softhsm2) dirs+=("$(install_softhsm2)") ;;
		*) dirs+=("$(install_module "$name")") ;;
		esac
	done
	(IFS=: && printf '%s\n' "${dirs[*]}")
}

main "$@"

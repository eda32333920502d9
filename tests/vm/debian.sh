# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced: Debian roots of any suite from the mirrors that this machine's own apt is configured with.

# mirrors: every archive that apt knows for this machine's release, one "URI SUITE" a line.
mirrors() {
	local f
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -f "$f" ] && sed -E -n 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?//p' "$f" |
			awk '{ print $1, $2 }'
	done
	for f in /etc/apt/sources.list.d/*.sources; do
		[ -f "$f" ] && awk '
			function flush(i, j) {
				if (types ~ /(^|[ \t])deb([ \t]|$)/ && enabled != "no")
					for (i = 1; i <= nu; i++)
						for (j = 1; j <= ns; j++)
							print uris[i], suites[j]
				types = enabled = ""; nu = ns = 0
			}
			/^[ \t]*#/ { next }
			/^[ \t]*$/ { flush(); next }
			{ value = $0; sub(/^[^:]*:[ \t]*/, "", value) }
			tolower($1) == "types:" { types = value }
			tolower($1) == "enabled:" { enabled = tolower(value) }
			tolower($1) == "uris:" { nu = split(value, uris) }
			tolower($1) == "suites:" { ns = split(value, suites) }
			END { flush() }' "$f"
	done
	return 0
}

# debian_sources SUITE: sources.list lines for SUITE (NAME or NAME-backports), this machine's mirror.
debian_sources() {
	local suite=$1 release uri
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	uri=$(mirrors | awk -v s="$release" '$2 == s { print $1; exit }')
	if [ -z "$uri" ]; then
		echo "apt knows no mirror of $release: cannot tell where to take $suite from" >&2
		return 1
	fi
	echo "deb $uri ${suite%-backports} main"
	case $suite in *-backports) echo "deb $uri $suite main" ;; esac
}

# debian_root SUITE TARGET [MMDEBSTRAP OPTION]...: a root tree (or archive) without manuals and
# translations, made without initramfs (INITRD=No) and without syncing each file.
debian_root() {
	local suite=$1 target=$2 sources opts=() line
	shift 2
	sources=$(debian_sources "$suite") || return 1
	while read -r line; do opts+=("--aptopt=$line"); done < <(
		apt-config dump 2>/dev/null | grep -E '^Acquire::https?::Proxy')
	INITRD=No SOURCE_DATE_EPOCH=$(date +%s) mmdebstrap --quiet --variant=apt --format="${FORMAT:-directory}" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Retries "5"' \
		--aptopt='Acquire::Languages "none"' "${opts[@]}" \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' "$@" "${suite%-backports}" "$target" - <<<"$sources"
}

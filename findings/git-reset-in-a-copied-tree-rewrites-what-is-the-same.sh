#!/bin/bash
# `git reset --hard` in a work tree whose files are those of the commit; one would have guessed: it has nothing to do. It has
# where the tree was copied, by `cp -a` too, which keeps every time that a program may set: the copy's files have other
# inodes and times of change than git noted, and reset goes by that note alone, without a look at what is in them. Each file
# is written anew, byte for byte the same, with the time of now, and tools that go by times (cargo, make) build everything
# again. `git update-index --refresh` before it looks at the content, mends the note, and no file is touched.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
version=1:2.39.5-0+deb12u3
cd "$dir"
mkdir get
(cd get; apt-get download -q "git=$version" > /dev/null 2>&1)
dpkg-deb -x get/*.deb program
export GIT_CONFIG_NOSYSTEM=1 HOME=$dir GIT_EXEC_PATH=$dir/program/usr/lib/git-core
git() { "$dir/program/usr/bin/git" "$@"; }
git init -q tree
echo same > tree/file
touch -d @1000000000 tree/file
git -C tree add file
git -C tree -c user.name=n -c user.email=n@example.org commit -q -m one
time_of() { stat -c %Y "$1/file"; }

git --version
git -C tree reset -q --hard; there=$(time_of tree)
cp -a tree copy
cp -a tree looked
before=$(time_of copy)
git -C copy reset -q --hard; after=$(time_of copy)
git -C looked update-index -q --refresh
git -C looked reset -q --hard; refreshed=$(time_of looked)
echo "where it was made: $there"
echo "a copy, before: $before; after reset --hard: $([ "$after" = "$before" ] && echo the same || echo now)"
echo "a copy, index refreshed first: $refreshed"
cmp tree/file copy/file
[ "$there" = 1000000000 ] && [ "$before" = 1000000000 ] && [ "$after" != "$before" ] && [ "$refreshed" = 1000000000 ]

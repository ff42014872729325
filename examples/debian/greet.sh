#!/bin/sh
. /etc/os-release
printf 'hello %s, from %s\n' "$1" "$PRETTY_NAME"

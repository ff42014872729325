#!/bin/sh
echo "everything is launched"

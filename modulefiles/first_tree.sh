# Written by petal-node. Prints the first of the named module trees that exists, below the directory $1, without symbolic
# links in the path. The init files run it with a deadline, because shared storage may hang; it looks at each tree once.
cd -P "$1" 2>/dev/null || exit # without a release; csh cannot redirect stderr alone
shift
for tree; do
  if [ -d "$tree" ]; then
    printf '%s\n' "$PWD/$tree"
    exit
  fi
done

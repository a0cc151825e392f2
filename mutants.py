#!/usr/bin/env python3
"""mutants.py [WORD…]: each row of mutants.tsv: its first tests must fail with PF9_MUTANT=name."""
import os, sys, subprocess, json, re
from concurrent.futures import ThreadPoolExecutor
tree = os.path.dirname(os.path.abspath(__file__)); only = sys.argv[1:]
os.chdir(tree); sys.path.insert(0, tree + '/scripts/lib')
os.environ.update(CARGO_NET_OFFLINE='true', CARGO_INCREMENTAL='0')
import tests
found = tests.programs()
print({k: str(v) for k, v in found.items()} if isinstance(found, dict) else found, flush=True)
env = tests.environment(7, False)
rows = [l.rstrip('\n').split('\t') for l in open(tree + '/mutants.tsv')][1:]
if only: rows = [r for r in rows if any(o in r[0] for o in only)]
def one(row):
    name, where, words = row
    out = []
    for word in words.split('; ')[:3]:
        prog, test = word.split(' ', 1)
        test = test.split(' (')[0].strip()
        path = found.get(prog)
        try:
            p = subprocess.run([str(path), '--exact', test], env=dict(env, PF9_MUTANT=name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, errors='replace', timeout=200, cwd=tree)
            ran = '1 passed' in p.stdout or '1 failed' in p.stdout
            r = 'killed' if '1 failed' in p.stdout or (p.returncode not in (0,) and '0 passed; 0 failed' not in p.stdout) else 'SURVIVED' if '1 passed' in p.stdout else 'NOTRUN'
        except subprocess.TimeoutExpired:
            r = 'killed(time)'
        out.append((r, prog, test))
        if r.startswith('killed'): break
    return name, where, out
k = 0
with ThreadPoolExecutor(3) as pool:
    for name, where, out in pool.map(one, rows):
        ok = any(o[0].startswith('killed') for o in out)
        k += ok
        if not ok or len(out) > 1: print('OK ' if ok else 'BAD', name, where, [f'{a}:{b} {c}' for a, b, c in out], flush=True)
print(k, 'of', len(rows), 'killed')

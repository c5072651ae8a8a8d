"""Look of the reports; the colours are those of ``specprune view``."""

STYLE = """
:root { --ground: #f4f5f7; --card: #fff; --text: #1b2430; --quiet: #566273; --line: #d5dae1;
  --head: #eaeef3; --accent: #0f62a8; --warn: #7a4b00; --warn-ground: #fff0d1; }
@media (prefers-color-scheme: dark) { :root { --ground: #10151b; --card: #19212a; --text: #e6ebf1;
  --quiet: #a3b0be; --line: #33404e; --head: #232d38; --accent: #7ab8f5; --warn: #ffcf7d;
  --warn-ground: #372a10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 2rem; max-width: 72rem; background: var(--ground);
  color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .4rem 0; } a { color: var(--accent); }
.lead, .note, figcaption, caption { color: var(--quiet); font-size: .92rem; }
nav { margin: .6rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .92rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem 1.1rem; margin-top: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .4rem 0; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th { background: var(--head); font-weight: 600; }
th:first-child, td:first-child, .words, .facts td, .facts th { text-align: left; }
td.words { white-space: normal; min-width: 8em; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.facts th { background: none; color: var(--quiet); font-weight: 400; }
tbody tr:hover td { background: var(--head); }
figure { margin: .8rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border-radius: 6px; border: 1px solid var(--line); display: block; }
.warning { background: var(--warn-ground); color: var(--warn); padding: .5rem .9rem;
  border-radius: 6px; border-left: 5px solid var(--warn); }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .87rem; }
pre { background: var(--head); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; padding: 0; }
  nav { display: none; } }
"""

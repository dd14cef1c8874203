"""How a report looks: light or dark as the reader's system is, wide or narrow."""

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c1f23; --faint: #646b74; --line: #e2e4e0; --bar: #2c6e8f;
  --track: #e6eaec; --warn: #a03d12; --good: #2f6f3e; --code: #f1f2ee; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171a; --card: #1c2024; --ink: #e6e7e4; --faint: #98a0a8; --line: #30363c; --bar: #6db3d4;
  --track: #2b3238; --warn: #f0a07a; --good: #86c795; --code: #262b30; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .25rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .9rem; max-width: 46rem; overflow-wrap: anywhere; }
.faint, figcaption, dt { color: var(--faint); font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tiles > div, figure { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.tiles > div { padding: .75rem 1rem; }
dl, dd { margin: 0; }
.tiles dd { font-size: 1.4rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .75rem; }
.charts.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; padding: .75rem .9rem .6rem; min-width: 0; }
figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 13px; font-variant-numeric: tabular-nums; }
td svg { width: 7.5rem; min-width: 5rem; }
.bar { fill: var(--bar); } .track { fill: var(--track); } .axis { stroke: var(--line); }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
th { text-align: left; font-weight: 500; color: var(--faint); white-space: nowrap; }
th, td { padding: .4rem 1.25rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td { max-width: 32rem; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
#options td:first-child { width: min(24rem, 45%); white-space: normal; }
.number { text-align: right; white-space: nowrap; }
code, .name { font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; font-size: .85em; }
code { background: var(--code); padding: .1em .35em; border-radius: .25em; overflow-wrap: anywhere; }
.warn { color: var(--warn); } .good { color: var(--good); }
.pairs { display: grid; gap: .75rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.pair { display: grid; grid-template-columns: repeat(3, 1fr); gap: .4rem; }
.pair span { display: block; font-size: .75rem; color: var(--faint); }
img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
.pair img { width: 100%; }
.sheet { padding: 0; overflow-x: auto; background: #fff; } .sheet img { min-width: 60rem; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
footer { margin-top: 3rem; color: var(--faint); font-size: .85rem; }
h3 .name { font-size: inherit; }
@media (max-width: 40rem) {
  .charts:not(.large) { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .charts:not(.large) svg text { font-size: 19px; }
  main { padding: 1.5rem 1rem 3rem; } th, td { padding-right: .9rem; }
}
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""

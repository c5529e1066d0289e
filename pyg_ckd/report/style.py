"""The style sheet of the reports: light and dark, on a phone and on paper."""

STYLE = """
:root { --paper: #fff; --ink: #1c1f24; --muted: #59626d; --rule: #dfe3e8; --accent: #0072b2; --alarm: #a33e00;
  --calm: #f0f6fa; --warm: #fff4ea; color-scheme: light; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e8ebee; --muted: #a9b2bc; --rule: #2f363e; --accent: #4aa8e0; --alarm: #ffae70;
    --calm: #1a2530; --warm: #33241a; color-scheme: dark; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 3rem 0 .35rem; letter-spacing: -0.005em; }
p { margin: .35rem 0 .9rem; max-width: 46rem; overflow-wrap: anywhere; }
.lead, .note, figcaption, caption { color: var(--muted); }
.lead { margin: 0 0 1.6rem; max-width: none; }
.note, figcaption { font-size: .9rem; }
.verdict { border-left: 4px solid var(--accent); background: var(--calm); padding: .9rem 1.2rem;
  border-radius: 0 6px 6px 0; }
.verdict p { margin: .35rem 0; max-width: none; font-size: 1.05rem; }
.verdict.alarm { border-color: var(--alarm); background: var(--warm); margin-bottom: .8rem; }
.verdict.alarm strong { color: var(--alarm); }
.wide { overflow-x: auto; margin: .8rem 0 0; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; width: 100%; }
caption { text-align: left; font-size: .85rem; padding: .2rem; }
th, td { padding: .42rem .2rem .42rem 1rem; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
tbody tr > :first-child, thead tr:first-child > :first-child { text-align: left; padding-left: .2rem; }
thead th.text { text-align: left; }
tbody th[scope="row"], thead tr:first-child > :first-child { background: var(--paper); position: sticky; left: 0; }
tbody th[scope="row"] { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; max-width: 15rem; }
thead th { font-weight: 600; color: var(--muted); font-size: .85rem; vertical-align: bottom; white-space: normal;
  line-height: 1.3; }
thead tr:last-child th, thead th[rowspan] { border-bottom: 1.5px solid var(--ink); }
thead th[scope="colgroup"] { text-align: center; }
tbody th { font-weight: 500; }
tbody th[scope="rowgroup"] { font-weight: 600; font-size: .85rem; color: var(--muted); padding-top: 1rem; }
td.best { font-weight: 700; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
th small, td small { color: var(--muted); font-weight: 400; font-size: .85em; margin-left: .3em; }
th small.below, td small.below { display: block; margin: 0; line-height: 1.3; }
table.facts { width: auto; min-width: 22rem; max-width: 100%; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts tbody th[scope="row"] { color: var(--muted); font-weight: 400; padding-right: 1.5rem; }
.dot { display: inline-block; width: .62em; height: .62em; border-radius: 50%; margin-right: .5em; }
pre { margin: 0; padding: .7rem .9rem; background: var(--calm); border-radius: 6px; font-size: .85rem;
  white-space: pre-wrap; }
pre span { white-space: nowrap; }
figure { margin: 1.2rem 0 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .4rem; max-width: 46rem; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--rule); padding: .55rem 0; }
details:last-of-type { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; font-weight: 600; }
h2 + details { margin-top: .8rem; }
.wide + details, figure + details, p + details { margin-top: 1rem; }
@media screen and (max-width: 640px) {
  main { padding: 1.4rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .verdict p { font-size: 1rem; }
  figure .wide img { width: 46rem; max-width: none; }
  table.facts { min-width: 0; }
  tbody th[scope="row"] { min-width: 6rem; max-width: 8.5rem; }
}
@media print {
  @page { margin: 12mm; }
  html { font-size: 12px; }
  body { font-size: 9.5pt; }
  main, p, figcaption { max-width: none; }
  main { padding: 0; }
  h2 { break-after: avoid; margin-top: 1.4rem; }
  figure, tr, .verdict { break-inside: avoid; }
  .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .dot { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .wide { overflow: visible; }
  table { font-size: 7.2pt; }
  tbody:not(:only-of-type) { break-inside: avoid; }
  th, td { padding: .2rem .1rem .2rem .35rem; }
  tbody th[scope="row"] { position: static; min-width: 0; max-width: none; }
  thead tr:first-child > :first-child { position: static; }
  thead th { font-size: 6.8pt; }
  td small { display: block; margin: 0; white-space: normal; }
  td.text { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  details:not([open]) > :not(summary) { display: block; }
  summary { list-style: none; }
}
"""

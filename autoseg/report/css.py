"""Style sheet of the report's page, for screens, phones and paper."""

CSS = """
:root { --ink: #1d2733; --muted: #67727e; --line: #dde3e8; --soft: #f5f7f9; --accent: #0b6e8f; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: white; font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header > div { max-width: 1020px; margin: 0 auto; padding: 0 24px; }
header { background: var(--ink); color: white; padding: 38px 0 30px; }
header p { margin: 6px 0 0; color: #b9c5cf; max-width: 46em; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 22px; margin: 48px 0 6px; font-weight: 650; }
h3 { font-size: 16px; margin: 30px 0 8px; font-weight: 650; }
p { margin: 8px 0 14px; max-width: 46em; }
a { color: var(--accent); }
nav { border-bottom: 1px solid var(--line); background: white; position: sticky; top: 0; z-index: 1; }
nav > div { max-width: 1020px; margin: 0 auto; padding: 10px 24px; display: flex; gap: 4px 22px; flex-wrap: wrap; }
nav a { text-decoration: none; font-size: 14px; font-weight: 550; }
section { scroll-margin-top: 52px; }
.muted, figcaption, .note { color: var(--muted); font-size: 14px; }
.note { border-left: 3px solid #e69f00; padding: 4px 0 4px 12px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0 8px; }
.card { background: var(--soft); border-radius: 8px; padding: 13px 16px; }
.card b { display: block; font-size: 25px; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--muted); font-size: 13px; }
.scroll { overflow-x: auto; margin: 10px 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 550; border-bottom-color: #b5c0c9; white-space: nowrap; }
td.number, th.number { text-align: right; padding: 7px 0 7px 14px; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
tr.total td { font-weight: 650; }
td small { color: var(--muted); font-size: 12.5px; }
td.value { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; min-width: 9em; }
figure { margin: 16px 0 26px; }
figure img, figure svg { max-width: 100%; height: auto; display: block; }
.wide img { width: 100%; }
.beside { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 0 14px; }
figcaption { margin-top: 4px; }
details { margin: 12px 0; }
summary { cursor: pointer; color: var(--accent); font-weight: 550; font-size: 15px; }
pre { background: var(--soft); border-radius: 8px; padding: 14px; font-size: 12.5px; line-height: 1.45;
  overflow: auto; max-height: 480px; }
footer { border-top: 1px solid var(--line); margin-top: 56px; padding: 18px 0 40px; color: var(--muted);
  font-size: 13px; }
@media print {
  body { font-size: 11pt; }
  header { background: none; color: var(--ink); padding: 0 0 10px; border-bottom: 2px solid var(--ink); }
  header p { color: var(--muted); }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, tr, .card { break-inside: avoid; }
  .card { border: 1px solid var(--line); }
  pre { max-height: none; white-space: pre-wrap; }
}
"""

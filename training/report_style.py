"""The style sheet of `asr-train report`, light and dark, wide and narrow."""

STYLE = """
:root { color-scheme: light dark; --text:#1b1f24; --faint:#59636e; --grid:#dfe4e9; --ground:#fff;
  --card:#f6f8fa; --bad:#b3261e; --good:#11734b;
  --c0:#2a6fdb; --c1:#d9622b; --c2:#16906b; --c3:#a3489b; --c4:#b58900; --c5:#59636e }
@media (prefers-color-scheme: dark) { :root { --text:#e6e9ed; --faint:#9aa4af; --grid:#343b43;
  --ground:#14171b; --card:#1d2126; --bad:#ff8f86; --good:#6fd3a5;
  --c0:#6ea3f5; --c1:#f0925f; --c2:#4cc79d; --c3:#d98bd1; --c4:#dcb84a; --c5:#9aa4af } }
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--text); font:15px/1.5 system-ui, sans-serif }
header, main { max-width:1180px; margin:0 auto; padding:0 20px }
header { padding-top:24px }
h1 { margin:0; font-size:26px }
h2 { margin:36px 0 10px; font-size:20px }
h3 { margin:8px 0; font-size:15px }
.faint { color:var(--faint); font-size:13px }
p.faint { margin:4px 0 }
nav { display:flex; flex-wrap:wrap; gap:4px 16px; padding:8px 0; border-bottom:1px solid var(--grid) }
nav a { color:var(--c0) }
svg { display:block; width:100%; height:auto }
section > svg { max-width:720px }
.grid { display:grid; gap:20px; grid-template-columns:repeat(auto-fit, minmax(min(340px, 100%), 1fr)) }
.grid.two { grid-template-columns:repeat(auto-fill, minmax(min(480px, 100%), 1fr)) }
.grid.three { grid-template-columns:repeat(auto-fill, minmax(min(300px, 100%), 1fr)) }
.grid > * { min-width:0 }
.wide { overflow-x:auto }
table { border-collapse:collapse; font-size:14px; font-variant-numeric:tabular-nums }
th, td { padding:3px 14px 3px 0; text-align:left; white-space:nowrap; border-bottom:1px solid var(--grid) }
th { color:var(--faint); font-weight:500 }
.n { text-align:right }
details { margin:8px 0 }
summary { cursor:pointer; font-weight:600 }
article { background:var(--card); border-radius:8px; padding:10px 14px }
article summary { font-weight:400; color:var(--faint); font-size:13px; overflow-wrap:anywhere }
audio { width:100%; height:36px }
del { color:var(--bad); text-decoration:line-through }
ins { color:var(--good); text-decoration:underline }
dl { margin:6px 0; display:grid; grid-template-columns:max-content 1fr; gap:2px 12px; font-size:14px }
dt { color:var(--faint) }
dd { margin:0; overflow-wrap:anywhere }
code { font-size:13px; overflow-wrap:anywhere }
@media (max-width:560px) {
  header, main { padding:0 12px }
  dl { grid-template-columns:1fr }
  dd { margin-bottom:6px }
}
"""

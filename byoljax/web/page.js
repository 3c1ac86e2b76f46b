'use strict';
const about = JSON.parse(document.getElementById('about').textContent);
const SVG = 'http://www.w3.org/2000/svg';
const COLORS = 8, EVERY = 2000, FEW = 40;
// Three in a row are the most curves that a panel has; runs that share a color have others.
const CURVES = 3, DASHES = ['', '6 4', '2 3', '10 3 2 3', '14 4', '10 3 2 3 2 3', '1 5', '4 2', '10 3 6 3',
  '3 8', '6 2 1 2', '2 2 2 6'];
const state = { runs: [], picked: null, sort: 'changed', up: false, curves: new Map(), details: new Map() };
const $ = id => document.getElementById(id);

function make(tag, fields = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === 'class') node.className = value;
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
function shape(tag, fields, text = '') {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(fields)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}
function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
const address = (path, fields) => `${path}?${new URLSearchParams(fields)}`;
const group = number => number.toLocaleString('en-US');
function size(bytes) {
  let number = bytes / 1000, unit = 0;
  while (number >= 999.5 && unit < 3) { number /= 1000; unit++; }
  return `${number < 99.95 && unit ? number.toFixed(1) : number.toFixed(0)} ${['kB', 'MB', 'GB', 'TB'][unit]}`;
}
function ago(seconds) {
  for (const [length, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']])
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
  return `${Math.max(0, Math.floor(seconds))} s ago`;
}
function short(value) {
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (Math.abs(value) >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  return String(Number(value.toPrecision(4)));
}

// The list.
const COLUMNS = [
  ['pick', '', null], ['name', 'run', run => run.name], ['recipe', 'recipe', run => run.recipe],
  ['status', 'status', run => run.status], ['step', 'step', run => run.step],
  ['best', 'best k-NN', run => run.best ?? -1], ['loss', 'loss', run => run.loss ?? -Infinity],
  ['size', 'size', run => run.bytes], ['changed', 'changed', run => run.changed],
];
const NUMBERS = ['best', 'loss', 'size', 'changed'];
const rows = new Map();

function header() {
  $('runs').querySelector('thead tr').replaceChildren(...COLUMNS.map(([id, title, key]) => {
    const cell = make('th', { class: `${id} ${NUMBERS.includes(id) ? 'number' : ''}` });
    if (key) cell.append(make('button', { textContent: title, onclick: () => {
      const words = ['name', 'recipe', 'status'].includes(id);
      state.up = state.sort === id ? !state.up : words;
      state.sort = id;
      header();
      list();
    } }));
    if (id === state.sort) cell.setAttribute('aria-sort', state.up ? 'ascending' : 'descending');
    return cell;
  }));
}
function row(run) {
  const cells = Object.fromEntries(COLUMNS.map(([id]) => [id, make('td', { class: id })]));
  const box = make('input', { type: 'checkbox', 'aria-label': `show ${run.name}` });
  cells.pick.append(box);
  cells.text = make('span');
  cells.bar = make('i');
  cells.step.append(cells.text, make('div', { class: 'done' }, cells.bar));
  for (const id of NUMBERS) cells[id].classList.add('number');
  const line = make('tr', {}, ...COLUMNS.map(([id]) => cells[id]));
  line.addEventListener('click', event => {
    if (event.target !== box) box.checked = !box.checked;
    pick(run.name, box.checked);
  });
  return { line, box, cells };
}
function list() {
  const key = COLUMNS.find(([id]) => id === state.sort)[2], sign = state.up ? 1 : -1;
  const order = [...state.runs].sort((a, b) => {
    const x = key(a), y = key(b);
    return x < y ? -sign : x > y ? sign : a.name < b.name ? -1 : 1;
  });
  for (const [name, each] of rows) if (!order.some(run => run.name === name)) {
    each.line.remove();
    rows.delete(name);
  }
  const body = $('runs').querySelector('tbody'), now = Date.now() / 1000;
  order.forEach((run, place) => {
    if (!rows.has(run.name)) rows.set(run.name, row(run));
    const { line, box, cells } = rows.get(run.name);
    if (body.children[place] !== line) body.insertBefore(line, body.children[place] ?? null);
    const color = state.picked.indexOf(run.name);
    line.className = color < 0 ? '' : `c${color % COLORS}`;
    box.checked = color >= 0;
    put(cells.name, run.name);
    put(cells.recipe, run.recipe);
    put(cells.status, run.status);
    cells.status.className = `status ${run.status}`;
    const part = run.total ? Math.min(1, run.step / run.total) : 1;
    put(cells.text, run.total ? `${group(run.step)} of ${group(run.total)}` : group(run.step));
    cells.bar.style.width = `${100 * part}%`;
    cells.bar.parentElement.hidden = part >= 1;
    put(cells.best, run.best === null ? '' : `${(100 * run.best).toFixed(1)} %`);
    put(cells.loss, run.loss === null ? '' : short(run.loss));
    put(cells.size, size(run.bytes));
    put(cells.changed, ago(now - run.changed));
    cells.changed.classList.add('soft');
  });
  const busy = order.filter(run => run.status === 'running').length;
  put($('count'), `${order.length} ${order.length === 1 ? 'run' : 'runs'}, ${busy} training`);
  document.title = busy ? `(${busy}) byoljax ${about.directory}` : `byoljax ${about.directory}`;
  $('runs').hidden = !order.length;
  $('empty').hidden = order.length > 0;
}
function pick(name, on) {
  state.picked = state.picked.filter(other => other !== name);
  if (on) state.picked.push(name);
  history.replaceState(null, '', `#${state.picked.map(encodeURIComponent).join(',')}`);
  list();
  refresh();
}
function named(hash) {
  try {
    return hash.slice(1).split(',').filter(Boolean).map(decodeURIComponent);
  } catch { // Somebody wrote it by hand.
    return [];
  }
}
function firstPicks() {
  const known = named(location.hash).filter(name => state.runs.some(run => run.name === name));
  if (known.length) return known;
  const running = state.runs.filter(run => run.status === 'running').slice(0, 4);
  const newest = [...state.runs].sort((a, b) => b.changed - a.changed).slice(0, 1);
  return (running.length ? running : newest).map(run => run.name);
}

// What else is known of a run.
function table(columns, rows) {
  return make('div', { class: 'scroll' }, make('table', {},
    make('thead', {}, make('tr', {}, ...columns.map(name => make('th', { textContent: name })))),
    make('tbody', {}, ...rows.map(values => make('tr', {},
      ...values.map(value => make('td', { textContent: value })))))));
}
function tableOf(found) {
  const columns = [...new Set(found.flatMap(Object.keys))];
  return table(columns, found.map(each => columns.map(name => each[name] ?? '')));
}
function differences(names, settings) { // Runs may have any name, 'setting' or '1' as well.
  const fields = [...new Set(settings.flatMap(Object.keys))]
    .filter(field => new Set(settings.map(each => each[field])).size > 1);
  return [['setting', ...names], fields.map(field => [field, ...settings.map(each => each[field] ?? '–')])];
}
function fold(title, content, open = false) {
  return make('details', { open }, make('summary', { textContent: title }), content);
}
function section(name, data) {
  const node = make('section', {}, make('h3', { textContent: name }));
  node.append(make('p', { class: 'links' },
    `byoljax ${data.versions.byoljax}, JAX ${data.versions.jax ?? '?'}`,
    ...data.report ? [make('a', { href: address('/report', { run: name }), target: '_blank', rel: 'noopener',
      textContent: 'report' })] : []));
  for (const [title, found] of Object.entries(data.tables))
    if (found.length) node.append(make('h4', { textContent: title }), tableOf(found));
  if (data.pictures.length) node.append(make('h4', { textContent: 'Pictures' }),
    make('div', { class: 'pictures' }, ...data.pictures.map(picture => {
      const href = address('/picture', { run: name, name: picture.name, changed: picture.changed });
      return make('figure', {}, make('a', { href, target: '_blank', rel: 'noopener' },
        make('img', { src: href, loading: 'lazy', alt: picture.name })),
      make('figcaption', { textContent: picture.name }));
    })));
  if (data.log) node.append(fold('End of the log', make('pre', { textContent: data.log })));
  node.append(fold('Settings', table(['setting', 'value'],
    Object.entries({ ...data.settings, ...data.facts }))));
  return node;
}
function describe() {
  const shown = state.picked.filter(name => state.details.has(name));
  for (const name of shown) {
    const each = state.details.get(name);
    if (each.node && each.drawn === each.data) continue;
    const open = each.node ? [...each.node.querySelectorAll('details')].map(fold => fold.open) : [];
    each.node = section(name, each.data);
    each.node.querySelectorAll('details').forEach((fold, i) => { fold.open = open[i] ?? false; });
    each.drawn = each.data;
  }
  const nodes = shown.map(name => state.details.get(name).node);
  if (nodes.some((node, i) => $('details').children[i] !== node) || $('details').children.length > nodes.length)
    $('details').replaceChildren(...nodes);
  const [columns, found] = differences(shown, shown.map(name => state.details.get(name).data.settings));
  const text = JSON.stringify([columns, found]);
  $('differences').hidden = !found.length;
  if ($('differences').dataset.shown !== text) {
    $('differences').dataset.shown = text;
    $('differences').open = found.length <= 25;
    put($('differences').firstElementChild, `Settings that differ: ${found.length}`);
    $('differences').lastElementChild.replaceWith(table(columns, found));
  }
}

// What has changed is fetched, while somebody looks.
async function fetched(store, path, name) {
  const before = store.get(name);
  const answer = await fetch(address(path, { run: name }),
    before ? { headers: { 'If-None-Match': before.tag }, cache: 'no-store' } : { cache: 'no-store' });
  if (answer.status === 304) return false;
  if (!answer.ok) return store.delete(name);
  const data = await answer.json();
  store.set(name, { ...before, data, tag: answer.headers.get('ETag') });
  return true;
}
async function refresh() {
  const names = [...state.picked];
  const changed = await Promise.all(names.map(async name => [
    await fetched(state.curves, '/api/curves', name), await fetched(state.details, '/api/details', name)]));
  const key = JSON.stringify([state.picked, $('unit').value, $('more').open]);
  if (changed.some(([curves]) => curves) || key !== state.plotted) plot();
  state.plotted = key;
  describe();
}
async function look() {
  if (!document.hidden) try {
    state.runs = await (await fetch('/api/runs', { cache: 'no-store' })).json();
    state.picked = state.picked?.filter(name => state.runs.some(run => run.name === name)) ?? null;
    if (!state.picked?.length && !state.chosen && state.runs.length) {
      state.picked = firstPicks();
      state.chosen = true;
    }
    state.picked ??= [];
    list();
    await refresh();
    put($('live'), 'live');
    $('live').className = '';
  } catch (error) {
    put($('live'), 'no answer: is byoljax web still running?');
    $('live').className = 'off';
    if (!(error instanceof TypeError)) console.error(error);
  }
  setTimeout(look, EVERY);
}
put($('directory'), about.directory);
$('unit').addEventListener('change', refresh);
$('more').addEventListener('toggle', refresh);
document.addEventListener('visibilitychange', () => list());
header();
look();

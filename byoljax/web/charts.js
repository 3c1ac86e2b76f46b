// Panels of curves, as SVG. With one run a color is a metric; with several it is a run, and dashes tell
// metrics, and runs of one color, apart.
function ticks(low, high) {
  if (high - low < 1e-9 * Math.max(1, Math.abs(high))) {
    const room = 0.5 * (Math.abs(low) || 1);
    low -= room;
    high += room;
  }
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(factor => factor * power >= raw * 0.999);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}
function decades(low, high) {
  const found = [], steps = high - low > 2 ? [1] : [1, 2, 5];
  for (let power = Math.floor(low) - 1; power <= Math.ceil(high); power++)
    for (const step of steps) found.push(power + Math.log10(step));
  const from = Math.max(...found.filter(tick => tick <= low + 1e-9));
  const to = Math.min(...found.filter(tick => tick >= high - 1e-9));
  return found.filter(tick => tick >= from && tick <= to);
}
function smooth(values) {
  const half = Math.floor(Math.max(3, values.length / 25) / 2);
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - half), i + half + 1);
    return near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}
function look(place, number) {
  const dash = CURVES * Math.floor(place / COLORS) + number;
  return { color: `c${place % COLORS}`, dash: DASHES[dash % DASHES.length] };
}
function lines(panel) {
  const several = state.picked.length > 1, byEpoch = $('unit').value === 'epoch';
  return state.picked.flatMap((name, place) => {
    const run = state.curves.get(name)?.data;
    return panel.curves.flatMap((curve, number) => {
      const points = run?.series[curve.key];
      if (!points || (byEpoch && !run.steps_per_epoch)) return [];
      return [{
        curve, name, ...(several ? look(place, number) : look(number, 0)),
        x: byEpoch ? points[0].map(step => step / run.steps_per_epoch) : points[0],
        y: points[1].map(value => value * (curve.scale ?? 1)),
      }];
    });
  });
}
function chart(panel, drawn) {
  const width = 360, height = 210, top = 10, right = 10, bottom = 24;
  const log = panel.log && drawn.every(line => line.y.every(value => value > 0));
  const of = value => (log ? Math.log10(value) : value);
  const known = state.picked.length === 1 && !log ? state.curves.get(state.picked[0]).data.known
    .filter(([title]) => title === panel.title) : [];
  const values = drawn.flatMap(line => line.y.map(of)).concat(known.map(each => each[2]));
  const least = panel.limits?.[0];
  let low = Math.min(...values), high = Math.max(...values);
  if (!log && least !== null && least !== undefined) low = Math.min(low, least);
  const marks = log ? decades(low, high) : ticks(low, high);
  [low, high] = [Math.min(low, marks[0]), Math.max(high, marks[marks.length - 1])];
  const end = Math.max(...drawn.map(line => line.x[line.x.length - 1])) || 1;
  const texts = marks.map(mark => short(log ? 10 ** mark : mark));
  const left = Math.max(30, 12 + 6.2 * Math.max(...texts.map(text => text.length)));
  const across = x => left + (width - left - right) * x / end;
  const down = y => top + (height - top - bottom) * (high - y) / (high - low || 1);
  const svg = shape('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': panel.title });
  marks.forEach((mark, i) => svg.append(
    shape('line', { class: 'grid', x1: left, x2: width - right, y1: down(mark), y2: down(mark) }),
    shape('text', { x: left - 6, y: down(mark) + 3.5, 'text-anchor': 'end' }, texts[i])));
  for (const mark of ticks(0, end).filter(mark => mark <= end * 1.001)) svg.append(shape('text', {
    x: across(mark), y: height - 6, 'text-anchor': across(mark) > width - 30 ? 'end' : 'middle',
  }, short(mark)));
  for (const [, label, value] of known) svg.append(
    shape('line', { class: 'known', x1: left, x2: width - right, y1: down(value), y2: down(value) }),
    shape('text', { x: width - right, y: down(value) - 4, 'text-anchor': 'end' }, label));
  for (const line of drawn) {
    const path = ys => line.x.map((x, i) => `${across(x).toFixed(1)},${down(of(ys[i])).toFixed(1)}`).join(' ');
    const many = line.x.length > FEW, soft = many && line.curve.noisy;
    if (soft) svg.append(shape('polyline', { class: `line faint ${line.color}`, points: path(line.y) }));
    svg.append(shape('polyline', {
      class: `line ${line.color}`, points: path(soft ? smooth(line.y) : line.y), 'stroke-dasharray': line.dash,
    }));
    if (!many) line.x.forEach((x, i) => svg.append(
      shape('circle', { class: `dot ${line.color}`, cx: across(x), cy: down(of(line.y[i])), r: 2.2 })));
  }
  const cursor = shape('line', { class: 'cursor', y1: top, y2: height - bottom });
  svg.append(cursor);
  const out = make('output');
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) * width / box.width - left) * end / (width - left - right);
    const near = drawn.map(line => line.x.reduce((best, x, i) =>
      Math.abs(x - at) < Math.abs(line.x[best] - at) ? i : best, 0));
    const x = Math.min(Math.max(at, 0), end);
    cursor.setAttribute('x1', across(x));
    cursor.setAttribute('x2', across(x));
    cursor.style.visibility = 'visible';
    // The nearest value, but none where a run was not yet, or is not so far.
    const room = end / 20;
    const value = (line, i) => (x < line.x[0] - room || x > line.x[line.x.length - 1] + room ? '–' : short(line.y[i]));
    out.replaceChildren(`${$('unit').value} ${short(x)}: `, ...drawn.flatMap((line, i) => [
      make('span', { class: line.color, textContent: value(line, near[i]) }), i + 1 < drawn.length ? ' / ' : '']));
  });
  svg.addEventListener('pointerleave', () => {
    cursor.style.visibility = 'hidden';
    out.replaceChildren();
  });
  return make('figure', { class: 'chart' },
    make('figcaption', {}, panel.title, make('small', { textContent: caption(panel, drawn) })),
    svg, make('div', { class: 'legend' }, ...keys(panel, drawn), out));
}
function caption(panel, drawn) {
  const labels = new Set(drawn.map(line => line.curve.label)), unit = panel.left?.match(/\[.*\]/)?.[0] ?? '';
  if (labels.size > 1) return panel.left ?? '';
  const [label] = labels;
  return `${panel.title.toLowerCase().includes(label.toLowerCase()) ? '' : label} ${unit}`.trim();
}
function key(color, dash, text) {
  const sample = shape('svg', { viewBox: '0 0 22 8' });
  sample.append(shape('line', { x1: 0, x2: 22, y1: 4, y2: 4, stroke: 'currentColor', 'stroke-width': 2.5,
    'stroke-dasharray': dash }));
  return make('span', { class: `key ${color}` }, sample, make('span', { textContent: text }));
}
function keys(panel, drawn) {
  const used = panel.curves.filter(curve => drawn.some(line => line.curve === curve));
  if (used.length < 2) return [];
  return used.map(curve => {
    const line = drawn.find(each => each.curve === curve);
    return key(state.picked.length > 1 ? '' : line.color, line.dash, curve.label);
  });
}
function plot() {
  const shown = state.picked.filter(name => state.curves.has(name));
  $('curves').hidden = !shown.length;
  if (!shown.length) return;
  $('chips').replaceChildren(...state.picked.map((name, place) => {
    const { color, dash } = look(place, 0);
    return key(color, dash, name);
  }));
  $('chips').hidden = state.picked.length < 2;
  const split = about.panels.flatMap(panel => [false, true].map(other => ({
    ...panel, curves: panel.curves.filter(curve => curve.right === other),
    title: other ? panel.curves.find(curve => curve.right)?.label ?? '' : panel.title,
    left: other ? panel.right : panel.left, limits: other ? [0, null] : panel.limits,
  }))).map(panel => ({ ...panel, title: panel.title.charAt(0).toUpperCase() + panel.title.slice(1) }));
  const known = new Set(about.panels.flatMap(panel => panel.curves.map(curve => curve.key)));
  const names = [...new Set(shown.flatMap(name => Object.keys(state.curves.get(name).data.series)))];
  const others = names.filter(name => !known.has(name)).sort()
    .map(name => ({ title: name, curves: [{ key: name, label: '', noisy: true }] }));
  const draw = panels => panels.map(panel => [panel, lines(panel)]).filter(([, drawn]) => drawn.length)
    .map(([panel, drawn]) => chart(panel, drawn));
  $('panels').replaceChildren(...draw(split));
  $('more').hidden = !others.length;
  $('others').replaceChildren(...$('more').open ? draw(others) : []);
}

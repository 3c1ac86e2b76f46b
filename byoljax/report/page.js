'use strict';
for (const svg of document.querySelectorAll('.chart svg')) {
  const lines = JSON.parse(svg.dataset.lines);
  const cursor = svg.querySelector('.cursor');
  const out = svg.parentElement.querySelector('output');
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = line => line.px.reduce((best, x, i) =>
      Math.abs(x - at) < Math.abs(line.px[best] - at) ? i : best, 0);
    const places = lines.map(near);
    const x = lines[0].px[places[0]];
    cursor.setAttribute('x1', x);
    cursor.setAttribute('x2', x);
    cursor.style.visibility = 'visible';
    out.textContent = 'step ' + Math.round(lines[0].x[places[0]]).toLocaleString() + ': ' +
      lines.map((line, i) => Number(line.y[places[i]].toPrecision(4))).join(' / ');
  });
  svg.addEventListener('pointerleave', () => {
    cursor.style.visibility = 'hidden';
    out.textContent = '';
  });
}
for (const map of document.querySelectorAll('.map')) {
  const data = JSON.parse(map.dataset.map);
  const svg = map.querySelector('svg'), spot = map.querySelector('.spot');
  const picture = spot.querySelector('i'), label = spot.querySelector('span');
  const dots = data.labels.map((name, i) => {
    const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    dot.setAttribute('r', 4.5);
    if (name < 0) dot.classList.add('none');
    else dot.style.setProperty('--hue', data.hues[name]);
    svg.append(dot);
    return dot;
  });
  const thumbs = map.querySelector('.thumbs'), pictures = map.querySelector('.pictures');
  // Images on the map, as many as do not cover one another.
  const hang = () => {
    thumbs.replaceChildren();
    const there = [];
    points.forEach(([x, y], i) => {
      if (dots[i].classList.contains('faded')) return;
      if (there.some(([a, b]) => Math.abs(a - x) < 46 && Math.abs(b - y) < 46)) return;
      there.push([x, y]);
      const one = document.createElement('i');
      one.style.left = x / 6 + '%';
      one.style.top = y / 6 + '%';
      one.style.backgroundSize = data.across * 40 + 'px';
      one.style.backgroundPosition =
        -(i % data.across) * 40 + 'px ' + -Math.floor(i / data.across) * 40 + 'px';
      if (data.labels[i] >= 0) {
        one.classList.add('of');
        one.style.setProperty('--hue', data.hues[data.labels[i]]);
      }
      thumbs.append(one);
    });
    pictures.setAttribute('aria-pressed', !thumbs.hidden);
  };
  pictures.addEventListener('click', () => { thumbs.hidden = !thumbs.hidden; hang(); });
  let points, only = null, chosen = null;
  const buttons = [...map.querySelectorAll('[data-layout]')];
  const lay = name => {
    points = data.layouts[name];
    dots.forEach((dot, i) => {
      dot.setAttribute('cx', points[i][0]);
      dot.setAttribute('cy', points[i][1]);
    });
    buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.layout === name));
    hang();
  };
  buttons.forEach(b => b.addEventListener('click', () => lay(b.dataset.layout)));
  lay(buttons[0].dataset.layout);
  const classes = [...map.querySelectorAll('[data-class]')];
  classes.forEach(b => b.addEventListener('click', () => {
    only = only === b.dataset.class ? null : b.dataset.class;
    classes.forEach(c => c.setAttribute('aria-pressed', c.dataset.class === only));
    dots.forEach((dot, i) =>
      dot.classList.toggle('faded', only !== null && String(data.labels[i]) !== only));
    hang();
  }));
  picture.style.backgroundSize = data.across * 80 + 'px';
  const show = event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * 600 / box.width;
    const y = (event.clientY - box.top) * 600 / box.height;
    let best = -1, nearest = 400;
    points.forEach(([a, b], i) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < nearest && !dots[i].classList.contains('faded')) { nearest = far; best = i; }
    });
    if (chosen !== null) dots[chosen].classList.remove('chosen');
    chosen = best < 0 ? null : best;
    spot.hidden = best < 0;
    if (best < 0) return;
    dots[best].classList.add('chosen');
    picture.style.backgroundPosition =
      -(best % data.across) * 80 + 'px ' + -Math.floor(best / data.across) * 80 + 'px';
    label.textContent =
      [data.names[data.labels[best]], data.files[best]].filter(Boolean).join('\n');
    const left = points[best][0] * box.width / 600, top = points[best][1] * box.height / 600;
    spot.style.left = Math.min(left + 12, box.width - 100) + 'px';
    spot.style.top = Math.max(0, top - 110) + 'px';
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', () => {
    spot.hidden = true;
    if (chosen !== null) dots[chosen].classList.remove('chosen');
    chosen = null;
  });
}

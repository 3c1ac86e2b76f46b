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
  let points, only = null, chosen = null;
  const buttons = [...map.querySelectorAll('[data-layout]')];
  const lay = name => {
    points = data.layouts[name];
    dots.forEach((dot, i) => {
      dot.setAttribute('cx', points[i][0]);
      dot.setAttribute('cy', points[i][1]);
    });
    buttons.forEach(b => b.setAttribute('aria-pressed', b.dataset.layout === name));
  };
  buttons.forEach(b => b.addEventListener('click', () => lay(b.dataset.layout)));
  lay(buttons[0].dataset.layout);
  const classes = [...map.querySelectorAll('[data-class]')];
  classes.forEach(b => b.addEventListener('click', () => {
    only = only === b.dataset.class ? null : b.dataset.class;
    classes.forEach(c => c.setAttribute('aria-pressed', c.dataset.class === only));
    dots.forEach((dot, i) =>
      dot.classList.toggle('faded', only !== null && String(data.labels[i]) !== only));
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
    label.textContent = data.names[data.labels[best]] || '';
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

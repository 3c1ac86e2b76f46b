'use strict';
const nav = document.querySelector('.controls'), grid = document.querySelector('.answers');
const figures = [...grid.children];
const sorted = nav.querySelector('[data-sort][aria-pressed=true]');
const state = {sort: sorted ? Number(sorted.dataset.sort) : 0, show: '', mistakes: false};
function draw() {
  for (const each of figures) {
    each.hidden = (state.show && each.dataset.class !== state.show) ||
      (state.mistakes && each.dataset.wrong !== '1');
  }
  if (state.sort) {
    figures.sort((a, b) => state.sort * (Number(a.dataset.p) - Number(b.dataset.p)));
    grid.append(...figures);
  }
  for (const each of nav.querySelectorAll('button')) {
    const pressed = 'sort' in each.dataset ? Number(each.dataset.sort) === state.sort :
      'mistakes' in each.dataset ? state.mistakes :
      !state.mistakes && each.dataset.show === state.show;
    each.setAttribute('aria-pressed', pressed);
  }
}
nav.addEventListener('click', event => {
  const data = event.target.dataset;
  if (event.target.tagName !== 'BUTTON') return;
  if ('sort' in data) state.sort = Number(data.sort);
  else [state.show, state.mistakes] = [data.show || '', 'mistakes' in data];
  draw();
});
nav.hidden = false;

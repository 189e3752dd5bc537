// Behaviour shared by all pages: local times, self-refreshing figures, confirmation of irreversible
// actions. The pages also work without it.

// --- times

const CLOCK = new Intl.DateTimeFormat(document.documentElement.lang, {
  year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
  hour12: false,
});

const HOUR = new Intl.DateTimeFormat(document.documentElement.lang, {
  hour: '2-digit', minute: '2-digit', hour12: false,
});

export function showTimes(within) {
  for (const clock of within.querySelectorAll('[data-clock]')) {
    clock.textContent = HOUR.format(new Date(clock.dataset.clock));
  }
  for (const time of within.querySelectorAll('time[datetime]')) {
    time.title = time.dateTime;
    time.textContent = CLOCK.format(new Date(time.dateTime));
  }
}

showTimes(document);

// --- self-refreshing figures: <section id="…" data-refresh-seconds="5">

const REFRESH_PATIENCE_MS = 10_000;
const STALE_MS = 60_000; // after this long without a refresh, figures are marked as stale

async function refresh(section) {
  // The tab is hidden, or the reader is selecting, copying or typing there.
  const selection = getSelection();
  const busy = section.contains(document.activeElement) || section.matches(':hover:has(.pointed)')
    || (!selection.isCollapsed && selection.containsNode(section, true));
  if (document.hidden || busy) {
    if (Date.now() - section.loadedAt > STALE_MS) section.classList.add('stale');
    return section;
  }
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: 'text/html', 'X-Requested-With': 'fetch' }, signal: AbortSignal.timeout(REFRESH_PATIENCE_MS),
    });
    if (answer.status === 401 || answer.status === 403) return void location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const fresh = page.getElementById(section.id);
    if (!fresh) return section;
    showTimes(fresh);
    fresh.loadedAt = Date.now();
    section.replaceWith(fresh);
    return fresh;
  } catch {
    section.classList.add('stale'); // the figures are out of date
    return section;
  }
}

for (const found of document.querySelectorAll('[data-refresh-seconds]')) {
  let section = found;
  section.loadedAt = Date.now();
  const again = async () => {
    section = await refresh(section);
    if (section) setTimeout(again, 1000 * section.dataset.refreshSeconds);
  };
  setTimeout(again, 1000 * section.dataset.refreshSeconds);
}

// --- charts: show the figures of the point under the pointer

document.addEventListener('pointermove', ({ target, clientX }) => {
  for (const pointed of document.querySelectorAll('.chart.pointed')) {
    if (!pointed.contains(target)) leave(pointed);
  }
  const chart = target.closest?.('.chart');
  if (chart?.querySelector('[data-points]')) point(chart, clientX);
});

function point(chart, clientX) {
  const drawing = chart.querySelector('svg');
  const points = JSON.parse(drawing.dataset.points);
  if (!points.length) return;
  const box = drawing.getBoundingClientRect();
  const x = ((clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
  const near = points.reduce((best, each) => (Math.abs(each.x - x) < Math.abs(best.x - x) ? each : best));
  const hair = drawing.querySelector('.hair');
  hair.setAttribute('x1', near.x);
  hair.setAttribute('x2', near.x);
  const said = chart.querySelector('.said');
  said.textContent = `${CLOCK.format(new Date(near.at)).split(', ').pop()}  ${near.text}`;
  chart.classList.add('pointed');
}

function leave(chart) {
  chart.classList.remove('pointed');
  chart.querySelector('.said').textContent = '';
}

// --- confirmation of irreversible actions: <form data-ask="…" data-yes="…" data-no="…">

document.addEventListener('submit', (event) => {
  const form = event.target;
  const submitter = event.submitter;
  const text = submitter?.dataset.ask ?? form.dataset.ask;
  if (!text || form.dataset.answered) return;
  event.preventDefault();
  const dialog = document.createElement('dialog');
  const question = document.createElement('p');
  question.textContent = text;
  question.id = 'question';
  dialog.setAttribute('aria-labelledby', 'question');
  const choices = document.createElement('form');
  choices.method = 'dialog';
  choices.className = 'actions';
  for (const [value, style, label] of [['no', '', form.dataset.no], ['yes', 'danger', form.dataset.yes]]) {
    const button = document.createElement('button');
    button.value = value;
    button.className = style;
    button.textContent = label;
    choices.append(button);
  }
  dialog.append(question, choices);
  document.body.append(dialog);
  dialog.addEventListener('close', () => {
    dialog.remove();
    if (dialog.returnValue !== 'yes') return submitter?.focus();
    form.dataset.answered = 'yes';
    form.requestSubmit(submitter);
  });
  dialog.showModal();
});

// A second click does not submit a form again.
document.addEventListener('submit', (event) => {
  if (event.defaultPrevented || event.target.method !== 'post') return;
  setTimeout(() => event.target.querySelectorAll('button').forEach((button) => (button.disabled = true)));
});
// Reload pages that the browser restores from its back/forward cache.
window.addEventListener('pageshow', ({ persisted }) => persisted && location.reload());

// --- copy a value that is shown once: <button data-copy="id of what to copy" data-copied="…">

document.addEventListener('click', async ({ target }) => {
  const button = target.closest?.('[data-copy]');
  if (!button) return;
  const shown = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(shown.textContent);
    button.textContent = button.dataset.copied;
  } catch {
    getSelection().selectAllChildren(shown); // no clipboard without HTTPS: select it for manual copying
  }
});

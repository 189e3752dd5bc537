// The delivery pages: local times in fields, and a checkbox that selects all rows. Without this script
// the fields are in UTC, as their labels say.

// --- time fields

const two = (number) => String(number).padStart(2, '0');

function localText(time) {
  const date = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-');
  return `${date}T${[time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')}`;
}

for (const field of document.querySelectorAll('input[data-utc]')) {
  const time = new Date(`${field.value}Z`);
  if (field.value && !Number.isNaN(time.valueOf())) field.value = localText(time);
}
const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
for (const zone of document.querySelectorAll('[data-zone]')) zone.textContent = timeZone;

document.addEventListener('formdata', ({ target, formData }) => {
  for (const field of target.querySelectorAll('input[data-utc]')) {
    if (field.value) formData.set(field.name, new Date(field.value).toISOString().replace('.000Z', 'Z'));
  }
  if (target.method !== 'get') return;
  for (const [name, value] of [...formData]) if (value === '') formData.delete(name); // keep the address short
});

// --- select all rows

const all = document.querySelector('[data-all]');
if (all) {
  const boxes = [...document.querySelectorAll('input[name="delivery"]')];
  const button = document.querySelector('[data-chosen]');
  const show = () => {
    const count = boxes.filter((box) => box.checked).length;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && !all.checked;
    button.disabled = count === 0;
  };
  all.hidden = false;
  all.addEventListener('change', () => {
    for (const box of boxes) box.checked = all.checked;
    show();
  });
  for (const box of boxes) box.addEventListener('change', show);
  show();
}

// The page: uploads a video, follows its job, and plays each frame with its map.
'use strict';

const $ = (id) => document.getElementById(id);
const video = $('video');
const picture = $('picture');
const rows = new Map(); // job id -> its list entry
let shown = null; // the job in the player
let frames = []; // its statistics
let drawn = -1; // the index of the frame in the picture

function problem(text) { $('problem').textContent = text || ''; }

async function answerOf(response) {
  const text = await response.text();
  let found = {};
  try { found = JSON.parse(text); } catch { /* not ours */ }
  if (response.ok) return found;
  const detail = found.detail || text || response.statusText;
  throw new Error(typeof detail === 'string' ? detail : JSON.stringify(detail));
}

// Uploading.

function upload(file) {
  problem('');
  const form = new FormData();
  for (const name of ['model', 'start', 'end', 'every']) {
    if ($(name).value.trim()) form.append(name, $(name).value.trim());
  }
  if ($('allow_truncated').checked) form.append('allow_truncated', 'true');
  form.append('video', file);
  const entry = row({ id: `upload-${rows.size}-${Date.now()}`, name: file.name, state: 'sending' });
  const request = new XMLHttpRequest(); // fetch does not tell how much was sent
  request.upload.onprogress = (event) => {
    entry.bar.max = event.total || 1;
    entry.bar.value = event.loaded;
  };
  entry.remove.onclick = () => { request.abort(); entry.item.remove(); };
  request.onerror = () => { entry.item.remove(); problem(`${file.name}: the server does not answer`); };
  request.onload = () => {
    entry.item.remove();
    let found = {};
    try { found = JSON.parse(request.responseText); } catch { /* not ours */ }
    if (request.status === 202) follow(found);
    else problem(`${file.name}: ${found.detail || request.statusText}`);
  };
  request.open('POST', '/videos');
  request.send(form);
}

$('file').onchange = () => { for (const file of $('file').files) upload(file); $('file').value = ''; };
$('drop').onkeydown = (event) => {
  if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); $('file').click(); }
};
for (const type of ['dragenter', 'dragover']) {
  document.addEventListener(type, (event) => { event.preventDefault(); $('drop').classList.add('over'); });
}
for (const type of ['dragleave', 'drop']) {
  document.addEventListener(type, (event) => { event.preventDefault(); $('drop').classList.remove('over'); });
}
document.addEventListener('drop', (event) => { for (const file of event.dataTransfer.files) upload(file); });
$('form').onsubmit = (event) => event.preventDefault();

// The list of jobs.

function row(job) {
  $('videos-title').hidden = false;
  const item = document.createElement('li');
  item.dataset.job = job.id;
  const name = Object.assign(document.createElement('span'), { className: 'name', textContent: job.name });
  const buttons = document.createElement('span');
  const open = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Show', hidden: true });
  const remove = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Delete' });
  open.setAttribute('aria-label', `Show ${job.name}`);
  remove.setAttribute('aria-label', `Delete ${job.name}`);
  const bar = document.createElement('progress');
  const state = Object.assign(document.createElement('span'), { className: 'state', textContent: job.state });
  buttons.append(open, ' ', remove);
  item.append(name, buttons, bar, state);
  $('jobs').prepend(item);
  return { item, open, remove, bar, state };
}

function update(job) {
  const entry = rows.get(job.id);
  entry.bar.max = job.total || 1;
  entry.bar.value = job.state === 'done' ? job.total || 1 : job.done;
  entry.bar.hidden = job.state === 'done' || job.state === 'failed';
  entry.open.hidden = job.state !== 'done';
  const texts = {
    queued: job.before ? `waiting; ${job.before} before it` : 'waiting',
    running: `${job.done} of ${job.total} frames, ${job.model}`,
    done: `done: ${job.total} frames, ${job.model}`,
    failed: `failed: ${job.problem}`,
  };
  entry.state.textContent = texts[job.state];
}

function follow(job, quietly = false) {
  const entry = row(job);
  rows.set(job.id, entry);
  let source = null;
  entry.open.onclick = () => show(job.id);
  entry.remove.onclick = async () => {
    try {
      await answerOf(await fetch(`/videos/${job.id}`, { method: 'DELETE' }));
    } catch (error) { problem(error.message); return; }
    if (source) source.close();
    entry.item.remove();
    rows.delete(job.id);
    if (shown && shown.id === job.id) { video.removeAttribute('src'); $('viewer').hidden = true; shown = null; }
  };
  update(job);
  if (job.state === 'done' || job.state === 'failed') return;
  source = new EventSource(`/videos/${job.id}/events`);
  source.addEventListener('progress', (event) => {
    const now = JSON.parse(event.data);
    update(now);
    if (now.state === 'done' || now.state === 'failed') {
      source.close();
      if (now.state === 'done' && !quietly && !shown) show(now.id);
    }
  });
  source.addEventListener('deleted', () => { source.close(); entry.item.remove(); rows.delete(job.id); });
}

// The player.

async function show(id) {
  try {
    const job = await answerOf(await fetch(`/videos/${id}`));
    const found = await answerOf(await fetch(`/videos/${id}/statistics.json`));
    shown = job;
    frames = found.frames;
  } catch (error) { problem(error.message); return; }
  drawn = -1;
  $('viewer').hidden = false;
  $('details').hidden = true;
  $('shown').textContent = shown.name;
  const between = frames.filter((frame) => frame.interpolated).length;
  $('interpolated').hidden = !between;
  $('interpolated').textContent =
    `${frames.length - between} maps are predicted; ${between} between them are interpolated in time.`;
  $('seek').max = frames.length - 1;
  $('files').replaceChildren('Files: ');
  for (const [name, address] of Object.entries(shown.files)) {
    if (name === 'player.mp4') continue;
    const link = Object.assign(document.createElement('a'), { href: address, textContent: name, download: '' });
    $('files').append(link);
  }
  video.src = shown.files['player.mp4'];
  video.load();
  $('viewer').scrollIntoView({ behavior: 'smooth' });
  picture.focus({ preventScroll: true });
}

function indexAt(time) {
  let low = 0;
  let high = frames.length - 1;
  while (low < high) { // the last frame that is shown at this time
    const middle = Math.ceil((low + high) / 2);
    if (frames[middle].time <= time + 0.0005) low = middle; else high = middle - 1;
  }
  return low;
}

function seekTo(index) {
  index = Math.max(0, Math.min(frames.length - 1, index));
  const next = frames[index + 1];
  // Within the frame, not at its edge, where rounding decides.
  video.currentTime = frames[index].time + (next ? Math.min(0.004, (next.time - frames[index].time) / 2) : 0.001);
}

function draw(time) {
  if (!shown || video.readyState < 2) return;
  const width = video.videoWidth;
  const height = video.videoHeight / 2; // the frame is above its overlay
  if (picture.width !== width || picture.height !== height) { picture.width = width; picture.height = height; }
  const context = picture.getContext('2d');
  const opacity = $('opacity').value / 100;
  context.globalAlpha = 1;
  context.drawImage(video, 0, 0, width, height, 0, 0, width, height);
  if (opacity > 0) {
    context.globalAlpha = opacity;
    context.drawImage(video, 0, height, width, height, 0, 0, width, height);
  }
  const index = indexAt(time ?? video.currentTime);
  if (index !== drawn) {
    drawn = index;
    const frame = frames[index];
    $('seek').value = index;
    $('seek').setAttribute('aria-valuetext', `frame ${frame.number}, ${frame.time.toFixed(2)} seconds`);
    $('frame').value = `${frame.number}, ${frame.time.toFixed(2)} s`;
    $('value').value = frame.concentration.toFixed(3);
  }
  curve();
}

function curve() {
  const canvas = $('curve');
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== width * scale) { canvas.width = width * scale; canvas.height = height * scale; }
  const context = canvas.getContext('2d');
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  const end = frames[frames.length - 1].time || 1;
  const values = frames.map((frame) => frame.concentration);
  const low = Math.min(...values);
  const range = Math.max(...values) - low || 1;
  const x = (frame) => 4 + ((width - 8) * frame.time) / end;
  const y = (frame) => height - 6 - ((height - 12) * (frame.concentration - low)) / range;
  const colour = getComputedStyle(document.body).color;
  context.strokeStyle = colour;
  context.beginPath();
  frames.forEach((frame, i) => (i ? context.lineTo(x(frame), y(frame)) : context.moveTo(x(frame), y(frame))));
  context.stroke();
  if (drawn >= 0) {
    context.fillStyle = '#1f6feb';
    context.fillRect(x(frames[drawn]) - 1, 0, 2, height);
  }
}

function step(by) { video.pause(); seekTo(drawn + by); }
function toggle() { if (video.paused) video.play(); else video.pause(); }

// Each decoded frame is drawn once, when it is there; without the callback, as often as the screen.
if ('requestVideoFrameCallback' in HTMLVideoElement.prototype) {
  const next = (_, frame) => { draw(frame.mediaTime); video.requestVideoFrameCallback(next); };
  video.requestVideoFrameCallback(next);
} else {
  const next = () => { if (!video.paused) draw(); requestAnimationFrame(next); };
  next();
}
video.onseeked = () => draw();
video.onloadeddata = () => draw();
video.onplay = () => { $('play').textContent = 'Pause'; };
video.onpause = () => { $('play').textContent = 'Play'; };
video.onerror = () => { if (shown) problem('this browser cannot play the video; the files below are complete'); };
$('play').onclick = toggle;
$('back').onclick = () => step(-1);
$('forward').onclick = () => step(1);
$('seek').oninput = () => { video.pause(); seekTo(Number($('seek').value)); };
$('opacity').oninput = () => { $('percent').value = `${$('opacity').value}%`; draw(); };
$('sound').onchange = () => { video.muted = !$('sound').checked; };
window.onresize = () => { if (shown) curve(); };

picture.onkeydown = (event) => {
  const actions = { ' ': toggle, ArrowLeft: () => step(-1), ArrowRight: () => step(1), Enter: () => details(null) };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
};
picture.onclick = (event) => {
  const box = picture.getBoundingClientRect();
  const inside = (value) => Math.max(0, Math.min(0.9999, value));
  details([inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)]);
};
$('curve').onclick = (event) => {
  const box = $('curve').getBoundingClientRect();
  const end = frames[frames.length - 1].time;
  video.pause();
  seekTo(indexAt((end * (event.clientX - box.left - 4)) / (box.width - 8)));
};

// The map of the frame, and where the place that was clicked attends; with the keyboard, the peak.
function details(place) {
  if (!shown || drawn < 0) return;
  video.pause();
  const frame = frames[drawn];
  const [x, y] = place || frame.peak;
  const address = `/videos/${shown.id}/frames/${frame.number}`;
  $('details').hidden = false;
  $('map').src = `${address}/map.png`;
  $('map-title').textContent = `Map of frame ${frame.number}` +
    (frame.interpolated ? ', interpolated in time' : '') +
    `; concentration ${frame.concentration.toFixed(3)}`;
  const attends = Boolean(shown.results.attention);
  $('attention-box').hidden = !attends;
  $('details').classList.toggle('both', attends);
  if (attends) {
    const title = `Where ${(100 * x).toFixed(0)}% from the left, ${(100 * y).toFixed(0)}% from the top attends`;
    $('attention-title').textContent = `${title}: computing ...`;
    $('attention').onload = () => { $('attention-title').textContent = title; };
    $('attention').onerror = () => { $('attention-title').textContent = `${title}: not to be had`; };
    $('attention').src = `${address}/attention.png?x=${x.toFixed(4)}&y=${y.toFixed(4)}`;
  }
}

async function begin() {
  try {
    const health = await answerOf(await fetch('/health'));
    for (const name of health.models) $('model').append(new Option(name, name));
    for (const job of await answerOf(await fetch('/videos'))) follow(job, true);
  } catch (error) { problem(error.message); }
}
begin();

'use strict';

function cell(...parts) {
  const made = document.createElement('td');
  made.append(...parts);
  return made;
}

function code(text) {
  return Object.assign(document.createElement('code'), { textContent: text });
}

async function begin() {
  const schema = await (await fetch('/openapi.json')).json();
  document.getElementById('example').textContent =
    `curl -F video=@film.mp4 ${location.origin}/videos\n` +
    `curl -N ${location.origin}/videos/ID/events\n` +
    `curl -O ${location.origin}/videos/ID/overlay.mp4`;
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, what] of Object.entries(methods)) {
      const takes = (what.parameters || []).map((p) => p.name);
      const form = what.requestBody?.content?.['multipart/form-data']?.schema;
      for (const [name, field] of Object.entries(form?.properties || {})) {
        takes.push(field.description ? `${name} (${field.description})` : name);
      }
      const line = document.createElement('tr');
      line.append(cell(code(`${method.toUpperCase()} ${path}`)), cell(what.description || what.summary), cell(takes.join(', ')));
      document.getElementById('paths').append(line);
    }
  }
}
begin();

/**
 * Shows the host's API with Swagger UI. A credential is kept in the memory of the page alone and is sent
 * to this host alone, which the page's policy enforces.
 */
const form = document.getElementById('unlock');
const field = document.getElementById('token');
const notice = document.getElementById('notice');

async function show(token) {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const response = await fetch('openapi.json', { headers });
  form.hidden = response.status !== 401;
  notice.hidden = response.ok || (!form.hidden && token === undefined);
  notice.textContent =
    response.status === 401
      ? 'The host does not know this credential.'
      : `The host answered ${response.status}.`;
  if (!response.ok) return;
  const ui = window.SwaggerUIBundle({
    dom_id: '#reference',
    spec: await response.json(),
    deepLinking: true,
    docExpansion: 'list',
    defaultModelsExpandDepth: 0,
    filter: true,
    persistAuthorization: false,
    validatorUrl: null,
    onComplete: () => {
      if (token !== undefined) ui.preauthorizeApiKey('bearer', token);
    },
  });
}

function fail(error) {
  notice.hidden = false;
  notice.textContent = `The reference cannot be shown: ${error.message}`;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  show(field.value).catch(fail);
  field.value = '';
});
show().catch(fail);

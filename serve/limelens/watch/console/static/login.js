// A link from another page comes without the login's cookie; a request of this page brings it.

const form = document.querySelector("form[data-next]");
const found = await fetch("/session");
if ((await found.json()).may_see) location.replace(form.dataset.next);

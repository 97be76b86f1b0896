"use strict";
SwaggerUIBundle({
  dom_id: "#docs",
  url: document.getElementById("docs").dataset.document,
  validatorUrl: null,
  deepLinking: true,
  withCredentials: true,
});

"use strict";
// Keyboard, and renewal of a page when something happened. Every page works
// without this file.
(function () {
  var main = document.getElementById("content");
  var typing = function () {
    var a = document.activeElement;
    return a && /^(INPUT|TEXTAREA|SELECT)$/.test(a.tagName);
  };

  // "/" goes to the search, "g" and a letter to a page, "j" and "k" along rows.
  var go = 0, row = -1;
  document.addEventListener("keydown", function (e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "Escape" && typing()) { document.activeElement.blur(); return; }
    if (typing()) return;
    if (e.key === "/") {
      var q = document.getElementById("q");
      if (q) { q.focus(); q.select(); e.preventDefault(); }
    } else if (e.key === "g") {
      go = Date.now();
    } else if (Date.now() - go < 1500) {
      go = 0;
      var a = document.querySelector('nav a[data-key="' + CSS.escape(e.key) + '"]');
      if (a) { a.click(); e.preventDefault(); }
    } else if (e.key === "j" || e.key === "k") {
      var links = main.querySelectorAll("tbody tr a:first-of-type");
      if (!links.length) return;
      row = Math.max(0, Math.min(links.length - 1, row + (e.key === "j" ? 1 : -1)));
      links[row].focus();
      e.preventDefault();
    }
  });

  if (!main || !main.dataset.live || !window.EventSource) return;
  var told = document.getElementById("live");
  var due = null, busy = false;
  var renew = function () {
    due = null;
    // Not under somebody's hands.
    if (busy || document.hidden || typing() || main.querySelector("details[open]") || String(getSelection())) { due = setTimeout(renew, 5000); return; }
    busy = true;
    fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" }).then(function (r) {
      if (!r.ok) throw new Error(String(r.status));
      return r.text();
    }).then(function (t) {
      var next = new DOMParser().parseFromString(t, "text/html").getElementById("content");
      if (next) {
        var focus = main.contains(document.activeElement);
        main.replaceChildren.apply(main, next.childNodes);
        if (focus) main.focus({ preventScroll: true });
      }
      if (told) told.textContent = "renewed at " + new Date().toISOString().slice(11, 19);
    }).catch(function () {
      if (told) told.textContent = "could not be renewed; load the page again";
    }).finally(function () { busy = false; });
  };
  var events = new EventSource(main.dataset.live);
  events.addEventListener("change", function () {
    if (!due) due = setTimeout(renew, 1000);
  });
  addEventListener("pagehide", function () { events.close(); });
})();

"use strict";

const answers = document.getElementById("answers");

new EventSource("events").addEventListener("status", (event) => {
  const status = JSON.parse(event.data);
  document.getElementById("instance").textContent = status.instance;
  answers.replaceChildren(...status.answers.map((answer) => {
    const line = document.createElement("p");
    line.textContent = `${answer.question} ${answer.answer}: ${answer.detail}`;
    return line;
  }));
});

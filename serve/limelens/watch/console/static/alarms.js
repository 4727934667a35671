// Sound and notifications, both off until somebody asks for them: browsers want a click for either.

import { say } from "./words.js";

export class Alarms {
  constructor(soundButton, notifyButton) {
    this.soundButton = soundButton;
    this.notifyButton = notifyButton;
    this.audio = null;
    this.told = new Map();
    soundButton.addEventListener("click", () => this.setSound(!this.hasSound));
    notifyButton.addEventListener("click", () => this.setNotify(!this.hasNotify));
    notifyButton.hidden = !("Notification" in window) || !window.isSecureContext;
    if (recall("sound")) {
      // Chosen earlier; the first click or key anywhere makes it possible again.
      const resume = () => this.hasSound || this.setSound(true);
      addEventListener("pointerdown", resume, { once: true });
      addEventListener("keydown", resume, { once: true });
    }
    if (recall("notify") && window.Notification?.permission === "granted") press(notifyButton, true);
  }

  get hasSound() {
    return this.soundButton.getAttribute("aria-pressed") === "true";
  }

  get hasNotify() {
    return this.notifyButton.getAttribute("aria-pressed") === "true";
  }

  async setSound(wanted) {
    press(this.soundButton, wanted);
    keep("sound", wanted);
    if (!wanted) return;
    this.audio ??= new AudioContext();
    await this.audio.resume();
    this.tones([660], 0.08);
  }

  async setNotify(wanted) {
    const isAllowed = wanted && (await Notification.requestPermission()) === "granted";
    press(this.notifyButton, isAllowed);
    keep("notify", isAllowed);
    this.notifyButton.title = wanted && !isAllowed ? say("notify_denied") : "";
  }

  /** A camera's state became an alert, or another event of an alert came. */
  alert(camera, sentence) {
    if (this.told.get(camera.id) === camera.event && camera.event) return;
    this.told.set(camera.id, camera.event);
    if (this.hasSound) this.tones([880, 660, 880, 660, 880], 0.18);
    if (!this.hasNotify) return;
    try {
      const shown = new Notification(sentence, {
        body: camera.label ?? "",
        tag: `limelens-${camera.id}`,
        renotify: true,
        icon: "/static/icon.svg",
      });
      shown.onclick = () => {
        window.focus();
        shown.close();
      };
    } catch {
      // Some phones show notifications of installed applications only.
      press(this.notifyButton, false);
      this.notifyButton.title = say("notify_denied");
    }
  }

  /** The connection ended: silence must not sound like peace. */
  lost() {
    if (this.hasSound) this.tones([330, 247], 0.3);
  }

  tones(frequencies, seconds) {
    const start = this.audio.currentTime + 0.02;
    frequencies.forEach((frequency, index) => {
      const oscillator = this.audio.createOscillator();
      const volume = this.audio.createGain();
      const from = start + index * seconds;
      oscillator.frequency.value = frequency;
      volume.gain.setValueAtTime(0, from);
      volume.gain.linearRampToValueAtTime(0.25, from + 0.015);
      volume.gain.linearRampToValueAtTime(0, from + seconds);
      oscillator.connect(volume).connect(this.audio.destination);
      oscillator.start(from);
      oscillator.stop(from + seconds);
    });
  }
}

function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

function keep(name, value) {
  try {
    localStorage.setItem(`limelens-${name}`, value ? "1" : "");
  } catch {
    // A browser that keeps nothing forgets the choice with the page.
  }
}

function recall(name) {
  try {
    return localStorage.getItem(`limelens-${name}`) === "1";
  } catch {
    return false;
  }
}

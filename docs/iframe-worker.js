/* Browsers start no worker of a page that was opened from disk. There the search runs in a hidden
   frame, which takes and sends the same messages. */
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const waiting = []
      this.postMessage = data => waiting.push(data)
      const frame = document.createElement('iframe')
      frame.hidden = true
      const start = () => {
        document.body.append(frame)
        const inside = frame.contentWindow
        inside.postMessage = data => this.dispatchEvent(new MessageEvent('message', { data }))
        const script = inside.document.createElement('script')
        script.src = url
        script.onload = () => {
          this.postMessage = data =>
            inside.dispatchEvent(new inside.MessageEvent('message', { data }))
          waiting.forEach(data => this.postMessage(data))
        }
        inside.document.body.append(script)
      }
      if (document.body) start()
      else addEventListener('DOMContentLoaded', start)
    }
  }
}

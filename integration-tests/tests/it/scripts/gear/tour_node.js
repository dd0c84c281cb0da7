// Walks node-gearman's client and worker against the server at argv[2]:argv[3]; the last line is `ok`.
'use strict'
const assert = require('assert')
const Gearman = require('node-gearman')

const [host, port] = [process.argv[2], Number(process.argv[3])]
const worker = new Gearman(host, port)
worker.registerWorker('reverse', (payload, job) => {
  job.end(Buffer.from(payload || '').reverse())
})
worker.registerWorker('steps', (payload, job) => {
  for (let step = 1; step <= 3; step++) job.write('part;')
  job.end('whole')
})
worker.registerWorker('breaks', (payload, job) => job.error())

const client = new Gearman(host, port)
function run (name, payload) {
  return new Promise((resolve, reject) => {
    const job = client.submitJob(name, payload)
    const parts = []
    job.on('data', data => parts.push(Buffer.from(data)))
    job.on('end', () => resolve(Buffer.concat(parts)))
    job.on('error', reject)
  })
}

async function tour () {
  assert.strictEqual((await run('reverse', 'xebi')).toString(), 'ibex')
  assert.strictEqual((await run('steps', 'go')).toString(), 'part;part;part;whole')
  await assert.rejects(run('breaks', 'x'))
  const words = Array.from({ length: 50 }, (_, n) => `item ${n}`)
  const results = await Promise.all(words.map(word => run('reverse', word)))
  assert.deepStrictEqual(results.map(r => r.reverse().toString()), words)
  console.log('ok')
  process.exit(0)
}
tour().catch(error => { console.error(error); process.exit(1) })

// The official SDK for JavaScript: answers, conversations, files, uploads, jobs.
import { createReadStream, readFileSync } from 'node:fs'

import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import { z } from 'zod'

import { BASE, MODEL, QUESTION, ROWS, attempt } from './attempt.mjs'

const client = new OpenAI({ maxRetries: 8 })
const shared = { model: MODEL, temperature: 0 }
const messages = [{ role: 'user', content: QUESTION }]
const Verdict = z.object({ friends: z.boolean() })
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }
const seconds = (count) => new Promise((done) => setTimeout(done, 1000 * count))

const operations = {
  async chat() {
    return (await client.chat.completions.create({ ...shared, messages })).choices[0].message.content
  },
  async stream() {
    const running = client.chat.completions.stream({ ...shared, messages })
    return (await running.finalChatCompletion()).choices[0].message.content
  },
  async responses() {
    return (await client.responses.create({ ...shared, input: QUESTION })).output_text
  },
  async responses_stream() {
    let text = ''
    const running = client.responses.stream({ ...shared, input: QUESTION })
    running.on('response.output_text.delta', (event) => (text += event.delta))
    const whole = await running.finalResponse()
    if (text !== whole.output_text) throw new Error(`${text} is not ${whole.output_text}`)
    return text
  },
  async conversation() {
    const first = await client.responses.create({ ...shared, input: QUESTION })
    const second = await client.responses.create({ ...shared, input: 'А теперь?', previous_response_id: first.id })
    const items = await client.responses.inputItems.list(second.id)
    await client.responses.delete(first.id)
    return { second: second.output_text, items: items.data.length }
  },
  async completions() {
    return (await client.completions.create({ ...shared, prompt: QUESTION })).choices[0].text
  },
  async schema() {
    const chatted = await client.chat.completions.parse({ ...shared, messages, response_format: zodResponseFormat(Verdict, 'v') })
    const response = await client.responses.parse({ ...shared, input: QUESTION, text: { format: zodTextFormat(Verdict, 'v') } })
    if (chatted.choices[0].message.parsed.friends !== response.output_parsed.friends) throw new Error('they differ')
    return response.output_parsed
  },
  async tools() {
    const tools = [{ type: 'function', function: { name: 'weather', parameters } }]
    const answer = await client.chat.completions.create({ ...shared, messages, tools, tool_choice: 'required' })
    return answer.choices[0].message.tool_calls[0].function.name
  },
}
if (BASE) {
  operations.files = async () => {
    const file = await client.files.create({ file: createReadStream(ROWS), purpose: 'fine-tune' })
    const sent = readFileSync(ROWS)
    if ((await (await client.files.content(file.id)).text()) !== sent.toString()) throw new Error('other contents')
    const upload = await client.uploads.create({ bytes: sent.length, filename: 'a.jsonl', mime_type: 'text/jsonl', purpose: 'fine-tune' })
    const parts = []
    for (const half of [sent.subarray(0, 100), sent.subarray(100)]) {
      parts.push((await client.uploads.parts.create(upload.id, { data: new File([half], 'part') })).id)
    }
    const whole = await client.uploads.complete(upload.id, { part_ids: parts })
    if (whole.file.bytes !== sent.length) throw new Error('other size')
    await client.files.delete(whole.file.id)
    return (await client.files.delete(file.id)).deleted
  }
  operations.jobs = async () => {
    const file = await client.files.create({ file: createReadStream(ROWS), purpose: 'fine-tune' })
    const method = { type: 'supervised', supervised: { hyperparameters: { n_epochs: 1 } } }
    let job = await client.fineTuning.jobs.create({ model: BASE, training_file: file.id, method })
    while (!['succeeded', 'failed', 'cancelled'].includes(job.status)) {
      await seconds(2)
      job = await client.fineTuning.jobs.retrieve(job.id)
    }
    const events = []
    for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 2 })) events.push(event.message)
    if (job.status !== 'succeeded' || !events.at(-1).startsWith('Created')) throw new Error(JSON.stringify(job.error))
    return job.status
  }
}
await attempt(operations)

// Classifies images, one after the other through Classify and then all as the frames of one
// camera through ClassifyStream. It knows the contract in proto/limelens/v1 and nothing else.
'use strict'

const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')

const grpc = require('@grpc/grpc-js')
const protoLoader = require('@grpc/proto-loader')

const USAGE = 'usage: node classify.js [--server HOST:PORT] [--proto DIR] IMAGE...'

function readArguments () {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      server: { type: 'string', default: '127.0.0.1:8500' },
      proto: { type: 'string', default: path.join(__dirname, '..', '..', 'proto') }
    }
  })
  if (positionals.length === 0) throw new Error('no image')
  return { ...values, images: positionals }
}

function connect (server, proto) {
  const definition = protoLoader.loadSync('limelens/v1/classifier_service.proto', {
    includeDirs: [proto],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true
  })
  const { limelens } = grpc.loadPackageDefinition(definition)
  return new limelens.v1.ClassifierService(server, grpc.credentials.createInsecure())
}

function classify (client, image) {
  const request = { images: [{ encoded: fs.readFileSync(image) }] }
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + 30_000 }
    client.Classify(request, options, (error, reply) => error ? reject(error) : resolve(reply))
  })
}

// The next frame goes once the one before is answered: these are files, none is to be dropped.
function watch (client, images, told) {
  return new Promise((resolve, reject) => {
    const call = client.ClassifyStream()
    const send = (number) => {
      if (number === images.length) return call.end()
      const image = { encoded: fs.readFileSync(images[number]) }
      call.write({ frame: { frame_id: number, image } })
    }
    call.on('data', (answer) => {
      told(answer)
      send(answer.frame_id + 1)
    })
    call.on('error', reject)
    call.on('end', resolve)
    call.write({ config: { camera_id: 'node' } })
    send(0)
  })
}

function name (prediction) {
  return prediction.label || prediction.labels.join(', ') || 'abstained'
}

async function main () {
  let given
  try {
    given = readArguments()
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`)
    return 2
  }
  const client = connect(given.server, given.proto)
  try {
    for (const image of given.images) {
      const { predictions: [prediction], model } = await classify(client, image)
      const best = prediction.scores[0]
      console.log(`${image}: ${name(prediction)} ${best.probability.toFixed(3)} ` +
        `(${model.name} ${model.version})${prediction.alert ? ' ALERT' : ''}`)
    }
    await watch(client, given.images, (answer) => {
      console.log(`frame ${answer.frame_id}: ${answer.status} ${answer.state} ${answer.smoothed_label}`)
    })
    return 0
  } catch (error) {
    console.error(error.details || error.message)
    return 1
  } finally {
    client.close()
  }
}

main().then((code) => { process.exitCode = code })
